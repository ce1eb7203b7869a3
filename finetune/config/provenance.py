"""Everything that set a key, in order: which file and line, override or rule, and to what. Knows no schema."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.config import origin


@dataclass(frozen=True)
class Setting:
    """One place that set a key, and the value it wrote there."""

    where: str
    value: Any = None
    layer: int = 0
    """How late it was laid over the others; what was written together has the same."""


Settings = dict[str, list[Setting]]
"""Dotted key to its settings, in the order in which they were laid over each other."""


def add(settings: Settings, later: Mapping[str, Setting]) -> None:
    """Lay more settings over those there are."""
    layer = 1 + max((found[-1].layer for found in settings.values()), default=-1)
    for key, setting in later.items():
        settings.setdefault(key, []).append(replace(setting, layer=layer))


def of_file(file: Path, package: str) -> dict[str, Setting]:
    """What a file sets, below `package`."""
    values = {f"{package}.{key}" if package else key: value for key, value in flat(origin.values(file))}
    return {key: Setting(where, values.get(key)) for key, where in origin.lines(file, package).items()}


def of_value(key: str, value: Any, where: str) -> dict[str, Setting]:
    """What one value sets: its key and, where it is a mapping, the keys below."""
    below = {f"{key}.{inner}": Setting(where, part) for inner, part in flat(value)} if isinstance(value, dict) else {}
    return {key: Setting(where, value)} | below


def flat(values: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every dotted key of nested mappings with its value, a mapping before what is below it."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found.append((f"{prefix}{name}", value))
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{name}.")
    return found


def leaves(values: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """The dotted keys whose value is no mapping, or an empty one."""
    return [(key, value) for key, value in flat(values) if not isinstance(value, Mapping) or not value]
