"""The file and line behind each value of a composed config."""

from pathlib import Path
from typing import Any

from finetune.config import reading, recipes
from finetune.config.reading import Document
from finetune.errors import ConfigError

COMMAND_LINE = "command line"
UNWRITTEN = "not set"


def document(file: Path) -> Document:
    """What a YAML file says, and where.

    Raises:
        UserError: it cannot be read.
    """
    return reading.read(file, shown(file))


def values(file: Path) -> dict[Any, Any]:
    """What a YAML file says, interpolations as they stand.

    Raises:
        UserError: it cannot be read.
    """
    return document(file).values


def parse(file: Path) -> None:
    """Refuse a file that cannot be read as it is meant.

    Raises:
        UserError: it cannot be read, or writes a key twice.
    """
    if problems := document(file).problems:
        raise ConfigError(problems)


def lines(file: Path, package: str = "") -> dict[str, str]:
    """Dotted key, below `package`, to `file:line:column` for everything a file sets."""
    prefix = f"{package}." if package else ""
    where = document(file).places
    return {f"{prefix}{key}": place for key, place in where.items() if key.split(".")[0] != "defaults"}


def line_of(file: Path, key: str) -> str:
    """`file:line:column` of a key that a file writes."""
    return document(file).places[key]


def item_lines(file: Path, key: str) -> list[str]:
    """`file:line:column` of each item of a list that a file writes under `key`."""
    return document(file).items.get(key, [])


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
