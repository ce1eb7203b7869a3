"""A sweep that is there already: the same again, or refused with what differs."""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from finetune.config import recipes
from finetune.config.schema import Config
from finetune.config.space import Choices, Interval, Space
from finetune.config.sweep import SweepConfig
from finetune.errors import UserError
from finetune.sweep import beginning, points
from finetune.sweep.beginning import TRIALS, Asked, Sweep, comparable, differences
from finetune.sweep.folder import SWEEP, SweepFolder
from finetune.sweep.points import Source

MAY_CHANGE = ("n_trials", "timeout", "n_jobs", "max_failures")
"""How much is tried, not what is compared."""


def opened(wanted: Asked, folder: SweepFolder) -> Sweep:
    """A new sweep, planned and kept in its folder; or the one that is there, to go on with.

    Raises:
        UserError: a point cannot be trained, or something else is in the folder.
    """
    if began := folder.found():
        _refuse_another(began, wanted, folder)
        return _gone_on(folder, began, {name: getattr(wanted.first.sweep, name) for name in MAY_CHANGE})
    if (folder / "plan.json").is_file():
        raise UserError(f"run_folder={folder.path} holds a run. Name another folder for the sweep")
    return beginning.new(wanted, folder)


def resumed(folder: SweepFolder, words: Sequence[str]) -> Sweep:
    """A sweep to go on with.

    Args:
        words: overrides of how much is tried.
    Raises:
        UserError: they are of something else, or the sweep cannot go on here.
    """
    began = folder.found() or {}
    names = [word.partition("=")[0].removeprefix("sweep.") for word in words]
    for word, name in zip(words, names, strict=True):
        if name not in MAY_CHANGE or not word.startswith("sweep."):
            known = ", ".join(f"sweep.{each}" for each in MAY_CHANGE)
            raise UserError(f"{word}: a sweep goes on as it began; what may change is {known}")
    changed = _first_config(began, words).sweep if words else None
    return _gone_on(folder, began, {name: getattr(changed, name) for name in names})


def _gone_on(folder: SweepFolder, began: dict[str, Any], changed: dict[str, Any]) -> Sweep:
    """The sweep that is in a folder; what may change is kept as well."""
    first = _first_config(began)
    if different := differences(began["first"], comparable(first)):
        raise UserError(
            f"{folder.path}: its points come to something else than when it began, because a group's file or the "
            "installed version has changed:\n  " + "\n  ".join(different) + "\n  Put it back, or begin a new sweep"
        )
    of, kept = space_of(began), SweepConfig(**began["settings"])
    settings = replace(kept, **{name: value for name, value in changed.items() if value is not None})
    settings = replace(settings, n_trials=int(min(settings.n_trials or TRIALS, of.size)))
    if settings != kept:
        folder.write(SWEEP, began | {"settings": asdict(settings)})
    return beginning.ready(folder, Source(began["words"], of), first, settings)


def _first_config(began: dict[str, Any], words: Sequence[str] = ()) -> Config:
    """The config of the first point, composed where the sweep began."""
    try:
        os.chdir(began["cwd"])
    except OSError as error:
        raise UserError(f"the sweep began in {began['cwd']}, which cannot be entered: {error.strerror}") from None
    for folder in map(Path, began["config_dirs"]):
        if folder not in recipes.own_folders:
            recipes.add_folder(folder)
    source = Source([*began["words"], *words], space_of(began))
    return points.config_of(source, points.first(source))


def space_of(began: dict[str, Any]) -> Space:
    """The space that a sweep's file holds."""
    kinds = {"Choices": Choices, "Interval": Interval}
    made = []
    for each in began["space"]:
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in each.items()}
        made.append(kinds[str(values.pop("kind"))](**values))
    return Space(tuple(made))


def _refuse_another(began: dict[str, Any], wanted: Asked, folder: SweepFolder) -> None:
    """Refuse to go on with a sweep that is another one than what is asked for now."""
    different = differences(began["first"], comparable(wanted.first))
    kept, now = began["settings"], asdict(wanted.first.sweep)
    compared = {name: value for name, value in now.items() if name not in (*MAY_CHANGE, "space", "objectives")}
    different += [f"sweep.{name}: {kept[name]} → {value}" for name, value in compared.items() if kept[name] != value]
    if now["objectives"] and now["objectives"] != kept["objectives"]:
        different.append(f"sweep.objectives: {kept['objectives']} → {now['objectives']}")
    before, after = _varied(space_of(began)), _varied(wanted.source.space)
    different += [f"{key}: {before.get(key)} → {after.get(key)}" for key in dict.fromkeys([*before, *after])
                  if before.get(key) != after.get(key)]  # fmt: skip
    if different:
        raise UserError(
            f"{folder.path} holds another sweep than is asked for now:\n  " + "\n  ".join(different)
            + f"\n  Go on with that one: finetune sweep resume {folder.path}; or name another folder"
        )  # fmt: skip


def _varied(of: Space) -> dict[str, Any]:
    return {each.key: replace(each, where="") for each in of.dimensions}
