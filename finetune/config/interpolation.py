"""Values that refer to others, `${trainer.learning_rate}`, resolved; those that read the machine are refused."""

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config.origin import nearest_origin
from finetune.errors import Problem

RESOLVER = re.compile(r"(?<!\\)\$\{\s*([\w.]+)\s*:")
MISSING = "???"


def resolve(config: DictConfig, origins: dict[str, str], problems: list[Problem]) -> dict[str, Any]:
    """Plain values; what cannot be resolved stays as it is written, and joins the problems."""
    resolver = _Resolver(config, origins, problems)
    values: dict[str, Any] = resolver.plain(OmegaConf.to_container(config, resolve=False), ())
    return values


@dataclass
class _Resolver:
    config: DictConfig
    origins: dict[str, str]
    problems: list[Problem] = field(default_factory=list)

    def plain(self, node: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(node, dict):
            return {key: self.plain(value, (*path, key)) for key, value in node.items()}
        if isinstance(node, list):
            return [self.plain(value, (*path, at)) for at, value in enumerate(node)]
        return self._text(node, ".".join(map(str, path))) if isinstance(node, str) else node

    def _text(self, text: str, key: str) -> Any:
        if text == MISSING:
            return self._problem(text, key, "must be set.", f"Write {key}=…")
        if match := RESOLVER.search(text):
            what = (
                f"${{{match[1]}:…}} is refused: a config reads no environment and runs no resolver, to mean the same"
            )
            return self._problem(text, key, f"{what} everywhere.", f"Write the value, here or as {key}=…")
        return self._reference(text, key) if "${" in text else text

    def _reference(self, text: str, key: str) -> Any:
        try:
            value = OmegaConf.select(self.config, key)
            return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except (OmegaConfBaseException, RecursionError) as error:
            missing = re.search(r"Interpolation key '([^']+)' not found", str(error))
            reason = f"there is no key {missing[1]}" if missing else "it leads to itself or is malformed"
            hint = "A key is named from the top, such as ${dataset.path}"
            return self._problem(text, key, f"{text} cannot be resolved: {reason}.", hint)

    def _problem(self, text: str, key: str, what: str, hint: str) -> str:
        self.problems.append(Problem(key, nearest_origin(key, self.origins), what, hint))
        return text
