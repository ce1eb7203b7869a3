"""From a command line to a sweep that can be run: the space read, its points checked and planned, all of it kept.

A sweep that is gone on with is what it was when it began, whatever became of the recipe since.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from finetune.config import inheritance, recipes, space
from finetune.config.check import check, dump
from finetune.config.compose import compose
from finetune.config.provenance import leaves
from finetune.config.schema import Config
from finetune.config.space import Space
from finetune.config.sweep import GRID, SweepConfig
from finetune.errors import FinetuneError, UserError
from finetune.plan.run_folder import create
from finetune.sweep import planning, points
from finetune.sweep.devices import Pool, present
from finetune.sweep.folder import PLANNED, SWEEP, SweepFolder
from finetune.sweep.points import Source

log = logging.getLogger("finetune.sweep")

MOST_PLANNED = 64
"""Points of a space that are all planned before the first trial; of a larger one, those at its ends."""
TRIALS = 20
QUEUED = 8
"""Trials that are in a cluster's queue at a time, where the recipe does not say."""


@dataclass(frozen=True)
class Sweep:
    """A sweep that can be run."""

    folder: SweepFolder
    source: Source
    first: Config
    """The config of its first point."""
    settings: SweepConfig
    """With its objectives, and how many trials there are at most."""
    pool: Pool


@dataclass(frozen=True)
class Asked:
    """A sweep as it was asked for."""

    source: Source
    first: Config
    recipe: str | None


def asked(arguments: Sequence[str]) -> Asked:
    """Read and check what is to be swept.

    Raises:
        ConfigError: the space, or its first point, is wrong.
    """
    fixed, typed = space.split(arguments)
    composed = compose(fixed)
    written = composed.values.get("sweep")
    of_recipe = written.get("space") if isinstance(written, dict) else None
    if of_recipe is not None and not isinstance(of_recipe, dict):
        check(composed)  # which says what is wrong with it
    source = Source(fixed, space.read(typed, of_recipe or {}, composed.origins, fixed))
    wanted = Asked(source, points.config_of(source, points.first(source)), composed.recipe)
    from finetune.sweep import study

    study.check(wanted.first.sweep, source.space)
    if any(each.key in ("launch", "launch.method") for each in source.space.dimensions):
        raise UserError("the trials of a sweep are launched alike: launch is no key to sweep")
    points.on_sweep(wanted.first, wanted.first.sweep)
    if wanted.first.launch.is_job:
        from finetune.sweep import launchers

        launchers.check(wanted.first.launch)
    return wanted


def place(wanted: Asked) -> SweepFolder:
    """The folder that is named, or a new one."""
    named = wanted.first.run_folder
    path = Path(named).expanduser() if named else create(wanted.first.output_dir, wanted.first.name).path
    return SweepFolder(path.absolute())


def new(wanted: Asked, folder: SweepFolder) -> Sweep:
    """Plan a sweep, and keep it in its folder.

    Raises:
        UserError: a point cannot be trained.
    """
    source, settings = _kept(wanted, folder), wanted.first.sweep
    representatives = list(space.representatives(source.space, MOST_PLANNED))
    words = {}
    for point in representatives:
        config = points.on_sweep(points.config_of(source, point), settings)
        words[points.freeze(config, folder / points.FOLDER)] = source.space.words(point)
    log.info("planning %s", _counted(len(representatives), source.space))
    found = planning.plan(folder, words)
    log.info("planned: %s", _told(list(found.values())))
    settings = _settled(settings, source.space, list(found.values()))
    folder.write(
        SWEEP,
        {
            "name": wanted.first.name,
            "words": source.words,
            "config_dirs": [str(each) for each in recipes.own_folders],
            "cwd": str(Path.cwd()),
            "space": [{"kind": type(each).__name__, **asdict(each)} for each in source.space.dimensions],
            "settings": asdict(settings),
            "first": comparable(wanted.first),
            "planned": len(words),
        },
    )
    return ready(folder, source, wanted.first, settings)


def _kept(wanted: Asked, folder: SweepFolder) -> Source:
    """The same source, made from a copy of the recipe."""
    words = [word for word in wanted.source.words if not word.lstrip("+").startswith("run_folder=")]
    if wanted.recipe:
        copy = inheritance.copied(inheritance.read(wanted.recipe), wanted.first.name, folder.recipe)
        words = [f"recipe={copy}", *(word for word in words if not word.lstrip("+").startswith("recipe="))]
    source = Source(words, wanted.source.space)
    again = points.config_of(source, points.first(source))
    if different := differences(comparable(wanted.first), comparable(again)):
        raise FinetuneError(f"the recipe was not kept as it is: {different[0]}")
    return source


def _counted(planned: int, of: Space) -> str:
    if planned == of.size:
        return f"all {planned} points"
    return f"{planned} points: the ends of every key. Each other one is planned by its trial, before its first step"


def _told(found: list[planning.Found]) -> str:
    """Steps and time of a trial, and over how many sets of prepared rows they go."""
    steps = sorted({each["steps"] for each in found})
    high = max(((each["duration"] or {}).get("high", 0.0) for each in found), default=0.0)
    rows = len({each.get("rows") for each in found})
    often = f"{steps[0]} steps" if len(steps) == 1 else f"{steps[0]} to {steps[-1]} steps"
    within = f", at most about {high / 60:.0f} min" if high > 60 else ""
    return f"{often} a trial{within}; data prepared {'once' if rows == 1 else f'in {rows} ways'}"


def comparable(config: Config) -> dict[str, Any]:
    """What decides a point, but its sweep and its folder."""
    return dump(replace(config, sweep=SweepConfig(), run_folder=None))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The keys that two configs differ in, with both values."""
    before, after = dict(leaves(old)), dict(leaves(new))
    names = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    return [f"{name}: {before.get(name)} → {after.get(name)}" for name in names]


def _settled(settings: SweepConfig, of: Space, found: list[planning.Found]) -> SweepConfig:
    """What the plans decide: the task's own score as the objective, and how many trials there can be.

    Raises:
        UserError: there is nothing to prune by, so nothing would be pruned.
    """
    score, greater = found[0]["score"]
    objectives = settings.objectives or {score: "maximize" if greater else "minimize"}
    asked_for = settings.n_trials or (of.size if settings.sampler == GRID else TRIALS)
    settled = replace(settings, space={}, objectives=objectives, n_trials=int(min(asked_for, of.size)))
    if settled.pruner != "none" and min(each["evaluations"] for each in found) == 0:
        raise UserError(
            f"sweep.pruner={settled.pruner} goes by evaluations while a trial trains, and there are none. Write "
            "trainer.eval_strategy=steps trainer.eval_steps=N"
        )
    return settled


def ready(folder: SweepFolder, source: Source, first: Config, settings: SweepConfig) -> Sweep:
    """A sweep with the devices that there are for it here; jobs of a cluster need none.

    Raises:
        MachineError: they are too few.
    """
    jobs = None if settings.n_jobs == "auto" else settings.n_jobs
    if first.launch.is_job:
        return Sweep(folder, source, first, settings, Pool.of_queue(jobs or QUEUED))
    count = folder.read(PLANNED)["accelerators"]
    names, wanted = present(count), settings.devices_per_trial
    if wanted == "auto":
        wanted = (points.processes(first.launch) or count) if count else 0
    return Sweep(folder, source, first, settings, Pool.of(names, wanted, jobs))
