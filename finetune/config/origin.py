"""The file and line, or the override, behind each value of a composed config."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from finetune.config import recipes
from finetune.errors import UserError

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
UNWRITTEN = "default"


def keys(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """Every dotted key of a YAML mapping with its line, counted from 1."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        path = (*prefix, str(key.value))
        yield ".".join(path), key.start_mark.line + 1
        yield from keys(value, path)


def parse(file: Path) -> yaml.Node | None:
    """The node tree of a YAML file.

    Raises:
        UserError: the file is not YAML, or writes a key twice.
    """
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{shown(file)} is not valid YAML: {error}") from None
    seen: dict[str, int] = {}
    for key, line in keys(node):
        if key in seen:
            raise UserError(f"{shown(file)}:{line} sets {key} a second time; the first is on line {seen[key]}")
        seen[key] = line
    return node


def lines(file: Path, prefix: str = "") -> dict[str, str]:
    """Dotted key to `file:line` for everything a file sets."""
    where = {key: f"{shown(file)}:{line}" for key, line in keys(parse(file))}
    return {f"{prefix}{key}": place for key, place in where.items() if key.split(".")[0] != "defaults"}


def shown(file: Path) -> str:
    """A file as a user knows it: below the shipped config, below here, or in full."""
    for root in (recipes.HOME, Path.cwd()):
        if file.resolve().is_relative_to(root.resolve()):
            return str(file.resolve().relative_to(root.resolve()))
    return str(file)


def nearest_origin(key: str, origins: dict[str, str]) -> str:
    """Where a key, or the closest key above it, was written."""
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return UNWRITTEN
