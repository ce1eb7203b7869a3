"""A YAML file as plain values and the place of each key, read within limits: no file costs more than a moment.

Knows YAML. Knows nothing of what a key means, of other files, or of Hydra.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import Problem, UserError

BITS = 63
BYTES, DEPTH, NODES, ALIASES = 2**20, 50, 100_000, 100
"""The most a file may hold: bytes, levels of nesting, nodes once every alias is written out, aliases."""
# libyaml's own loader is ten times faster; a build of PyYAML without it has the same methods.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
INT, FLOAT, TIMESTAMP = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))


class Loader(_Loader):  # type: ignore[misc]
    """YAML's plain types as Hydra reads them: 1e-4 is a number, and a date is text."""

    yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in known if tag not in (FLOAT, TIMESTAMP)]
        for letter, known in _Loader.yaml_implicit_resolvers.items()
    }


NUMBER = re.compile(
    r"[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
Loader.add_implicit_resolver(FLOAT, re.compile(rf"(?:{NUMBER.pattern})\Z"), list("-+0123456789."))
# YAML 1.1 reads 010 as 8, and 12:30 as 750.
SURPRISING = re.compile(r"[-+]?(0[\d_]+|\d[\d_]*(:[0-5]?\d)+)")


@dataclass
class Document:
    """What a file says. Places are `name:line:column`, counted from 1."""

    values: dict[Any, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    """Dotted key to the place of its name."""
    items: dict[str, list[str]] = field(default_factory=dict)
    """Dotted key to the places of the items of its list."""
    problems: list[Problem] = field(default_factory=list)
    """Keys that stand twice, and numbers that do not mean what they look like."""


def read(file: Path, name: str) -> Document:
    """The values of a YAML mapping and their places, interpolations as they stand; an empty file says nothing.

    Args:
        name: what the file is called in places and messages.
    Raises:
        UserError: it cannot be read, exceeds a limit, is no YAML, holds a tag, or is no mapping.
    """
    text = _text(file, name)
    try:
        _measure(text, name)
        node = yaml.compose(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise UserError(_not_yaml(name, error)) from None
    if node is None:
        return Document()
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{place(name, node)} is not a mapping; write key: value, one a line")
    walk = _Walk(name)
    walk.found.values = walk.mapping(node, ())
    return walk.found


def place(name: str, node: Any) -> str:
    """Where a node or an event begins."""
    return f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _text(file: Path, name: str) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(BYTES + 1)
        if len(data) > BYTES:
            raise UserError(f"{name} is larger than {BYTES // 2**20} MiB, which no recipe is")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{name}:{line} is not valid YAML: it is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from None


def _measure(text: str, name: str) -> None:
    """Refuse what is too deep or too large before any of it is built."""
    meter = _Meter()
    for event in yaml.parse(text, Loader=Loader):
        if reason := meter.take(event):
            raise UserError(f"{place(name, event)} is refused: {reason}")


class _Meter:
    """Counts nodes as if every alias were written out, from the events alone."""

    def __init__(self) -> None:
        self.nodes = self.aliases = 0
        self.open: list[tuple[str | None, int]] = []
        self.sizes: dict[str, int] = {}

    def take(self, event: yaml.Event) -> str | None:
        """Why the file is refused at this event, or None."""
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self.open.pop()
            self._size(anchor, before)
        elif isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor)
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            return self._node(event)
        return None

    def _node(self, event: Any) -> str | None:
        if event.tag is not None:
            return "no tag is read. Leave it out; text that looks like a number is put in quotes"
        self.nodes += 1
        if isinstance(event, yaml.ScalarEvent):
            self._size(event.anchor, self.nodes - 1)
        else:
            self.open.append((event.anchor, self.nodes - 1))
        return f"it is nested more than {DEPTH} deep" if len(self.open) > DEPTH else self._too_many()

    def _alias(self, anchor: str | None) -> str | None:
        if anchor in (name for name, _ in self.open):
            return "an alias stands inside of what it names"
        self.aliases += 1
        self.nodes += self.sizes.get(str(anchor), 1)
        return f"it has more than {ALIASES} aliases" if self.aliases > ALIASES else self._too_many()

    def _size(self, anchor: str | None, before: int) -> None:
        if anchor is not None:
            self.sizes[anchor] = self.nodes - before

    def _too_many(self) -> str | None:
        return f"it holds more than {NODES:,} values, its aliases written out" if self.nodes > NODES else None


class _Walk:
    """From nodes to plain values, noting places and problems."""

    def __init__(self, name: str) -> None:
        self.name, self.found, self.constructor = name, Document(), yaml.constructor.SafeConstructor()

    def mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        seen: dict[Any, str] = {}
        for key_node, value_node in node.value:
            key, where = self._key(key_node), place(self.name, key_node)
            dotted = ".".join((*path, str(key)))
            self.found.problems += self._wrong_key(key_node, dotted, where, seen.get(key))
            self.found.places.setdefault(dotted, where)
            seen.setdefault(key, where)
            own[key] = self._value(value_node, (*path, str(key)))
        return own

    def _key(self, node: yaml.Node) -> Any:
        """A whole number stays one; any other key is text, as it is written."""
        if not isinstance(node, yaml.ScalarNode):
            return "?"
        return self._scalar(node) if node.tag == INT else str(node.value)

    def _wrong_key(self, node: yaml.Node, key: str, where: str, first: str | None) -> Iterator[Problem]:
        if not isinstance(node, yaml.ScalarNode):
            yield Problem(key, where, "a key is a word; this one is a list or a mapping.")
        elif node.value == "<<":
            yield Problem(
                key, where, "merge keys are not read.", "Write the keys out, or inherit a recipe in defaults."
            )
        elif first:
            yield Problem(key, where, f"is set a second time; the first is at {first}.", "Leave one of them.")

    def _value(self, node: yaml.Node, path: tuple[str, ...]) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        key = ".".join(path)
        if isinstance(node, yaml.SequenceNode):
            self.found.items[key] = [place(self.name, item) for item in node.value]
            return [self._value(item, (*path, str(at))) for at, item in enumerate(node.value)]
        if node.tag == INT and SURPRISING.fullmatch(node.value):
            self.found.problems.append(self._surprise(node, key))
        return self._scalar(node)

    def _scalar(self, node: Any) -> Any:
        """The value of a scalar; what makes no number, or one of more than 64 bits, stays text."""
        try:
            value = self.constructor.construct_object(node)
        except (ValueError, yaml.constructor.ConstructorError):
            return str(node.value)
        return str(node.value) if isinstance(value, int) and value.bit_length() > BITS else value

    def _surprise(self, node: Any, key: str) -> Problem:
        meant = self._scalar(node)
        what = f"wrote {node.value}, which YAML reads as {meant}."
        return Problem(key, place(self.name, node), what, f'Write {meant}, or "{node.value}" in quotes for text.')


def _not_yaml(name: str, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{where} is not valid YAML: {reason}"
