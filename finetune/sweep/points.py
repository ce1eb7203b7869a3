"""Points as recipes: overrides composed, checked and frozen, each in a file named by its hash. Loads no torch.

Two points that come to the same config are one. A recipe that is edited later changes none.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from finetune.config.check import dump, load_config
from finetune.config.launch import LOCAL, RAY, TORCHRUN, LaunchConfig
from finetune.config.schema import Config
from finetune.config.space import Space, Value, every, representatives
from finetune.config.sweep import SweepConfig
from finetune.errors import ConfigError, Problem, UserError

Values = dict[str, Value]
FOLDER = "points"
COUNTED = 10_000
"""Points of a space that are told apart one by one."""


@dataclass(frozen=True)
class Source:
    """What every point of a sweep is made from."""

    words: list[str]
    """The overrides that all points share, the recipe first."""
    space: Space
    composed: dict[tuple[str, ...], Config] = field(default_factory=dict, compare=False)
    """Points that were composed before: composing takes a fifth of a second."""


def config_of(source: Source, point: Values) -> Config:
    """The checked config of a point.

    Raises:
        ConfigError: what is wrong with it, each key with the place its values were written in.
    """
    words = tuple(source.space.words(point))
    if words in source.composed:
        return source.composed[words]
    try:
        return source.composed.setdefault(words, load_config([*source.words, *words])[0])
    except ConfigError as error:
        raise ConfigError([_placed(problem, source.space) for problem in error.problems]) from None
    except UserError as error:
        raise UserError(f"{error}, with {' '.join(words)}") from None


def first(source: Source) -> Values:
    """The point that stands for the sweep."""
    return next(representatives(source.space, 0))


def _placed(problem: Problem, space: Space) -> Problem:
    where = next((each.where for each in space.dimensions if each.key == problem.key), problem.where)
    return replace(problem, where=where)


def frozen(config: Config) -> tuple[str, str]:
    """The hash of a point, and its text as a recipe."""
    plain = dump(replace(config, sweep=SweepConfig(), run_folder=None))
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
    return digest, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def freeze(config: Config, folder: Path) -> str:
    """Write a point beside the others, where it is not there yet; returns its hash."""
    digest, text = frozen(config)
    file = folder / f"{digest}.yaml"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        staged = file.with_name(f".{file.name}")
        staged.write_text(text, encoding="utf-8")
        staged.replace(file)
    return digest


def grid(space: Space) -> list[Values]:
    """Every point, in order."""
    return list(every(space))


def on_sweep(config: Config, settings: SweepConfig) -> Config:
    """A point as a sweep launches it.

    Raises:
        UserError: its processes and its devices do not fit together.
    """
    wanted = settings.devices_per_trial
    if not config.launch.is_job:
        return config if wanted == "auto" else on_devices(config, wanted)
    if wanted != "auto":
        raise UserError(f"sweep.devices_per_trial={wanted} lends devices of this machine; launch.gpus_per_node says "
                        "what the job of a trial has")  # fmt: skip
    return replace(config, launch=replace(config.launch, follow=False))


def on_devices(config: Config, devices: int) -> Config:
    """The same point, with a process for each of its devices.

    Raises:
        UserError: its processes and its devices are not as many.
    """
    launch = config.launch
    if launch.method == LOCAL and devices > 1:
        raise UserError(f"sweep.devices_per_trial={devices}, and launch=local trains on one. Write launch=torchrun")
    if launch.method == LOCAL or devices == 0:
        return config
    if launch.nproc_per_node not in ("auto", devices):
        asked = launch.nproc_per_node
        raise UserError(f"launch.nproc_per_node={asked}, and sweep.devices_per_trial={devices}. Leave one of them out")
    return replace(config, launch=replace(launch, nproc_per_node=devices))


def processes(launch: LaunchConfig) -> int | None:
    """How many processes a trial has, where its recipe says so."""
    if launch.method == LOCAL:
        return 1
    return None if launch.nproc_per_node == "auto" else launch.nproc_per_node


def brought(launch: LaunchConfig) -> dict[str, Any]:
    """What `launch` says of a run that is where its devices are: Ray has brought it there. Nothing without Ray."""
    if launch.method != RAY:
        return {}
    ranks = launch.gpus if launch.nproc_per_node == "auto" else launch.nproc_per_node
    return {"method": LOCAL} if ranks == 1 else {"method": TORCHRUN, "nproc_per_node": ranks}


def as_recipe(text: str, comments: Sequence[str], launch: dict[str, Any]) -> str:
    """A point as a file that says where it is from.

    Args:
        launch: replaces that of the point, where there is any.
    """
    if launch:
        text = yaml.safe_dump(yaml.safe_load(text) | {"launch": launch}, sort_keys=False, allow_unicode=True)
    return "".join(["# @package _global_\n", *(f"# {line}\n" for line in comments), text])
