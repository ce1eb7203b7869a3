"""A recipe with the recipes it inherits, in the order in which they are laid over each other."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from finetune.config import groups, origin, recipes
from finetune.config.reading import Document
from finetune.errors import Problem, UserError

SELF = "_self_"
FORM = "Write `- NAME` to inherit a recipe, or `- override /GROUP: OPTION` to choose from a group."


@dataclass
class Lineage:
    """What a recipe and its ancestors say, the oldest first: a later one wins."""

    layers: list[tuple[Path, dict[Any, Any]]] = field(default_factory=list)
    """Each file with its values."""
    choices: dict[str, str] = field(default_factory=dict)
    """Group to option."""
    origins: dict[str, str] = field(default_factory=dict)
    """Group to the line that chose its option."""
    problems: list[Problem] = field(default_factory=list)
    roots: tuple[Path, ...] = ()
    """The folders a recipe may be read from."""


def read(name: str) -> Lineage:
    """A recipe by name or by file, with everything it inherits.

    Raises:
        UserError: a recipe is not there, cannot be read, or inherits itself.
    """
    file = recipes.find(name)
    lineage = Lineage(roots=(file.parent, Path.cwd(), recipes.RECIPES))
    _contain(file, lineage.roots)
    _add(file, lineage, ())
    return lineage


def copied(lineage: Lineage, name: str, folder: Path) -> Path:
    """Write a recipe and what it inherits into a folder, one file a layer; the last one is the same recipe.

    Args:
        name: that of its runs, which its file's name gave.
    """
    folder.mkdir(parents=True, exist_ok=True)
    heirs = [f"./{number:02d}.yaml" for number in range(len(lineage.layers))]
    lineage.layers[-1][1].setdefault("name", name)
    for number, (_, values) in enumerate(lineage.layers):
        defaults: list[Any] = [heirs[number - 1]] if number else []
        if number == len(heirs) - 1:
            defaults += [{f"override /{group}": option} for group, option in lineage.choices.items()]
        text = yaml.safe_dump({"defaults": [*defaults, SELF], **values}, sort_keys=False, allow_unicode=True)
        (folder / heirs[number]).write_text(f"# @package _global_\n{text}", encoding="utf-8")
    return folder / heirs[-1]


def _contain(file: Path, roots: tuple[Path, ...]) -> None:
    """A recipe from elsewhere reads no file but those around it: neither by its path nor through a link."""
    target = file.resolve()
    if not any(target.is_relative_to(root.resolve()) for root in roots):
        places = ", ".join(dict.fromkeys(str(root.absolute()) for root in roots))
        raise UserError(f"recipe={file}: it leads out of the folders a recipe is read from: {places}")


def _add(file: Path, lineage: Lineage, heirs: tuple[Path, ...]) -> None:
    """Append a file after its ancestors; one that two of them share stands once."""
    if file.resolve() in heirs:
        circle = " inherits ".join(origin.shown(each) for each in (*heirs[heirs.index(file.resolve()) :], file))
        raise UserError(f"a recipe inherits itself: {circle}")
    if any(file.resolve() == layer.resolve() for layer, _ in lineage.layers):
        return
    found = origin.document(file)
    values = found.values
    lineage.problems += [*found.problems, *_of_hydra(found)]
    entries = list(_entries(found))
    for where, entry in entries:
        if entry == SELF:
            lineage.layers.append((file, values))
        elif isinstance(entry, str):
            _add(_parent(entry, file, where, lineage.roots), lineage, (*heirs, file.resolve()))
    for where, entry in entries:
        if not isinstance(entry, str):
            _choose(entry, where, lineage)


def _of_hydra(found: Document) -> Iterator[Problem]:
    """Settings of Hydra, which would be taken out without a word."""
    if "hydra" in found.values:
        yield Problem("hydra", found.places["hydra"], "nothing reads it: Hydra composes the config and does no more.")


def _entries(found: Document) -> Iterator[tuple[str, Any]]:
    """Where each entry of the defaults list stands, and the entry; the recipe itself comes after those it inherits."""
    entries = found.values.pop("defaults", None) or []
    if not isinstance(entries, list):
        raise UserError(f"{found.places['defaults']}: defaults is a list. {FORM}")
    yield from zip(found.items.get("defaults", []), entries, strict=True)
    if SELF not in entries:
        yield "", SELF


def _parent(name: str, heir: Path, where: str, roots: tuple[Path, ...]) -> Path:
    """An inherited recipe: a shipped one by name, a file by its path from the one that inherits it."""
    try:
        file = recipes.find(name, heir.parent)
        _contain(file, roots)
        return file
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _choose(entry: Any, where: str, lineage: Lineage) -> None:
    ((written, option),) = entry.items() if isinstance(entry, dict) and len(entry) == 1 else (("", None),)
    match = re.fullmatch(r"override\s+/(\w+)", str(written))
    group = match[1] if match else ""
    problem = (
        (groups.refusal(group, option, where) or _twice(group, where, lineage)) if match else _misformed(entry, where)
    )
    if problem:
        lineage.problems.append(problem)
    else:
        lineage.choices[group], lineage.origins[group] = str(option), where


def _twice(group: str, where: str, lineage: Lineage) -> Problem | None:
    """One file chooses an option of a group once; an heir chooses anew."""
    before = lineage.origins.get(group, "")
    if before.rsplit(":", 2)[0] != where.rsplit(":", 2)[0]:
        return None
    return Problem(group, where, f"is chosen a second time; the first is at {before}.", "Leave one of them.")


def _misformed(entry: Any, where: str) -> Problem:
    if isinstance(entry, dict) and len(entry) == 1:
        ((written, option),) = entry.items()
        word = re.split(r"[\s/]+", str(written))[-1]
        if word in groups.names():
            return Problem("defaults", where, f"wrote {written}: {option}.", f"Write `- override /{word}: {option}`")
    return Problem("defaults", where, f"wrote {entry}.", FORM)
