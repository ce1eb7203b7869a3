"""The file and line behind each value of a composed config."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config import recipes
from finetune.errors import UserError

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
COMMAND_LINE = "command line"
UNWRITTEN = "not set"


def keys(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """Every dotted key of a YAML mapping with its line, counted from 1."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        path = (*prefix, str(key.value))
        yield ".".join(path), key.start_mark.line + 1
        yield from keys(value, path)


def parse(file: Path) -> yaml.MappingNode | None:
    """The node tree of a YAML file; None is an empty one.

    Raises:
        UserError: the file is not YAML, is not a mapping, or writes a key twice.
    """
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=Loader)
        found = list(keys(node))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(_not_yaml(file, error)) from None
    except OSError as error:
        raise UserError(f"{shown(file)} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{shown(file)}: an alias stands inside of what it names") from None
    if not isinstance(node, yaml.MappingNode | None):
        raise UserError(f"{shown(file)}:{node.start_mark.line + 1} is not a mapping; write key: value, one a line")
    _refuse_duplicates(file, found)
    return node


def values(file: Path) -> dict[Any, Any]:
    """What a YAML file says, interpolations as they stand.

    Raises:
        UserError: as `parse`, and for a YAML tag.
    """
    if parse(file) is None:
        return {}
    try:
        plain: dict[Any, Any] = OmegaConf.to_container(OmegaConf.load(file), resolve=False)  # type: ignore[assignment]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(_not_yaml(file, error)) from None
    return plain


def lines(file: Path, package: str = "") -> dict[str, str]:
    """Dotted key, below `package`, to `file:line` for everything a file sets."""
    prefix = f"{package}." if package else ""
    where = {key: f"{shown(file)}:{line}" for key, line in keys(parse(file))}
    return {f"{prefix}{key}": place for key, place in where.items() if key.split(".")[0] != "defaults"}


def line_of(file: Path, key: str) -> str:
    """`file:line` of a key that a file writes."""
    return f"{shown(file)}:{dict(keys(parse(file)))[key]}"


def item_lines(file: Path, key: str) -> list[str]:
    """`file:line` of each item of a list that a file writes under `key`."""
    node = parse(file)
    items = next((value for name, value in node.value if name.value == key), None) if node else None
    return [f"{shown(file)}:{item.start_mark.line + 1}" for item in items.value] if items else []


def shown(file: Path) -> str:
    """A file as a user knows it: below the shipped config, below here, or in full."""
    for root in (recipes.HOME, Path.cwd()):
        if file.resolve().is_relative_to(root.resolve()):
            return str(file.resolve().relative_to(root.resolve()))
    return str(file)


def nearest_origin(key: str, origins: dict[str, str]) -> str:
    """Where a key was written, or the closest key above it, or one below it."""
    above = key
    while above:
        if above in origins:
            return origins[above]
        above = above.rpartition(".")[0]
    return next((where for other, where in origins.items() if other.startswith(f"{key}.")), UNWRITTEN)


def _refuse_duplicates(file: Path, found: list[tuple[str, int]]) -> None:
    seen: dict[str, int] = {}
    for key, line in found:
        if key in seen:
            raise UserError(f"{shown(file)}:{line} sets {key} a second time; the first is on line {seen[key]}")
        seen[key] = line


def _not_yaml(file: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{shown(file)}:{mark.line + 1}" if mark else shown(file)
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{place} is not valid YAML: {reason}"
