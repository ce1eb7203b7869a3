"""Values that refer to others, `${trainer.learning_rate}`, resolved within limits.

Reads nothing but the config itself: what would read the machine, or run a resolver, is refused. Hydra never sees an
interpolation of a file, because it would follow one while it lays files over each other, without end.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from finetune.config.origin import nearest_origin
from finetune.errors import Problem

RESOLVER = re.compile(r"(?<!\\)\$\{\s*([\w.]+)\s*:")
REFERENCE = re.compile(r"(\\?)\$\{([^{}$]*)\}")
OPEN, VEILED = "${", "\ue000{"
MISSING = "???"
TEXT, STEPS = 2**16, 10_000
"""The most characters of one resolved text, and of values looked at to resolve a whole config."""

Path = tuple[Any, ...]


def veiled(node: Any) -> Any:
    """Plain values whose interpolations nothing but `resolve` takes for such."""
    if isinstance(node, dict):
        return {key: veiled(value) for key, value in node.items()}
    if isinstance(node, list):
        return [veiled(item) for item in node]
    return node.replace(OPEN, VEILED) if isinstance(node, str) else node


def _unveiled(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _unveiled(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_unveiled(item) for item in node]
    return node.replace(VEILED, OPEN) if isinstance(node, str) else node


def resolve(config: DictConfig, origins: dict[str, str], problems: list[Problem]) -> dict[str, Any]:
    """Plain values; what cannot be resolved stays as it is written, and joins the problems."""
    resolver = _Resolver(_unveiled(OmegaConf.to_container(config, resolve=False)), origins, problems)
    values: dict[str, Any] = resolver.plain(resolver.values, ())
    return values


class _Unresolved(Exception):
    """Why a reference leads nowhere."""


@dataclass
class _Resolver:
    values: Any
    origins: dict[str, str]
    problems: list[Problem] = field(default_factory=list)
    steps: int = 0

    def plain(self, node: Any, path: Path) -> Any:
        """The values below a path; each text that fails is a problem of its own."""
        if isinstance(node, dict):
            return {key: self.plain(value, (*path, key)) for key, value in node.items()}
        if isinstance(node, list):
            return [self.plain(value, (*path, at)) for at, value in enumerate(node)]
        return self._text(node, path) if isinstance(node, str) else node

    def _text(self, text: str, path: Path) -> Any:
        key = ".".join(map(str, path))
        if text == MISSING:
            return self._problem(text, key, "must be set.", f"Write {key}=…")
        if match := RESOLVER.search(text):
            what = (
                f"${{{match[1]}:…}} is refused: a config reads no environment and runs no resolver, to mean the same"
            )
            return self._problem(text, key, f"{what} everywhere.", f"Write the value, here or as {key}=…")
        try:
            return self._expanded(text, path, ())
        except _Unresolved as reason:
            hint = "A key is named from the top, such as ${dataset.path}"
            return self._problem(text, key, f"{text[:60]} cannot be resolved: {reason}.", hint)

    def _expanded(self, text: str, path: Path, followed: tuple[Path, ...]) -> Any:
        """A text with what it refers to; a text that is one reference takes the value with its type."""
        if OPEN not in text:
            return text
        self._step(len(text))
        if path in followed:
            raise _Unresolved("it leads to itself")
        if (whole := REFERENCE.fullmatch(text)) and not whole[1]:
            return self._follow(whole[2], path, (*followed, path))
        result = REFERENCE.sub(lambda match: self._inserted(match, path, (*followed, path)), text)
        if OPEN in REFERENCE.sub("", text):
            raise _Unresolved("it is malformed")
        if len(result) > TEXT:
            raise _Unresolved(f"it is longer than {TEXT // 2**10} KiB")
        return result

    def _inserted(self, match: re.Match[str], path: Path, followed: tuple[Path, ...]) -> str:
        """A value inside a text, written as a config writes it."""
        if match[1]:
            return match[0][1:]
        value = self._follow(match[2], path, followed)
        if isinstance(value, dict | list):
            raise _Unresolved(f"{match[2]} is not one value")
        return json.dumps(value) if value is None or isinstance(value, bool) else str(value)

    def _follow(self, name: str, path: Path, followed: tuple[Path, ...]) -> Any:
        target = _absolute(name.strip(), path)
        return self._copied(self._found(target, name), target, followed)

    def _copied(self, node: Any, path: Path, followed: tuple[Path, ...]) -> Any:
        self._step(len(node) if isinstance(node, str) else 0)
        if isinstance(node, dict):
            return {key: self._copied(value, (*path, key), followed) for key, value in node.items()}
        if isinstance(node, list):
            return [self._copied(value, (*path, at), followed) for at, value in enumerate(node)]
        if node == MISSING or (isinstance(node, str) and RESOLVER.search(node)):
            raise _Unresolved(f"{'.'.join(map(str, path))} has no value")
        return self._expanded(node, path, followed) if isinstance(node, str) else node

    def _found(self, path: Path, name: str) -> Any:
        node = self.values
        for part in path:
            if isinstance(node, dict) and part in node:
                node = node[part]
            elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            else:
                raise _Unresolved(f"there is no key {name.strip()}")
        return node

    def _step(self, characters: int) -> None:
        self.steps += 1 + characters // 100
        if self.steps > STEPS:
            raise _Unresolved("it refers to too much, over and over")

    def _problem(self, text: str, key: str, what: str, hint: str) -> str:
        self.problems.append(Problem(key, nearest_origin(key, self.origins), what, hint))
        return text


def _absolute(name: str, path: Path) -> Path:
    """The path a reference names: from the top, or, with leading dots, from the mapping around it."""
    dots = len(name) - len(name.lstrip("."))
    start = path[: len(path) - dots] if dots else ()
    return (*start, *re.sub(r"\[(\w+)\]", r".\1", name.lstrip(".")).split("."))
