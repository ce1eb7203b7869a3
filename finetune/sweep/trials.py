"""What is known of a trial that is not over, kept in the study at every change; and the command that is its run."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune.config import written
from finetune.plan.run_folder import RunFolder
from finetune.sweep import points
from finetune.sweep.beginning import Sweep
from finetune.sweep.devices import VISIBLE
from finetune.sweep.processes import TRAIN, Handle, Start

KEPT = "trial"
"""The study's name for it."""
AT_ONE_STEP = 3
"""A trial that is gone without a word so often at the same step would be gone again."""


@dataclass
class Trial:
    """A trial between its first process and its last."""

    number: int
    point: str
    """The hash of its point."""
    words: str
    """Its point, to be read."""
    seed: int = 0
    """Which of its seeds is trained."""
    values: list[list[float]] = field(default_factory=list)
    """What the seeds before were worth."""
    handle: Handle | None = None
    devices: list[str] = field(default_factory=list)
    log_from: int = 0
    """Bytes of its log that are of processes before."""
    lost: list[int] = field(default_factory=list)
    """The steps after which its processes were gone."""
    pruning: int | None = None
    """The step after which it was asked to end."""

    def plain(self) -> dict[str, Any]:
        """As the study keeps it."""
        return asdict(self)

    @property
    def is_hopeless(self) -> bool:
        """Whether it has been lost too often at one step."""
        return any(self.lost.count(step) >= AT_ONE_STEP for step in self.lost)


def folder_of(trial: Trial, sweep: Sweep) -> RunFolder:
    """The folder of the run that a trial is at."""
    return sweep.folder.trial(trial.number, trial.seed if sweep.settings.seeds_per_trial > 1 else None)


def log_of(trial: Trial, sweep: Sweep) -> Path:
    """What its processes print."""
    run = folder_of(trial, sweep).path
    return run.with_name(f"{run.name}.log")


def start(trial: Trial, sweep: Sweep) -> Start:
    """What is started of a trial; where its log ends by now is noted."""
    log = log_of(trial, sweep)
    log.parent.mkdir(exist_ok=True)
    trial.log_from = log.stat().st_size if log.exists() else 0
    return Start(command(trial, sweep), log, variables(trial, sweep), folder_of(trial, sweep).path)


def command(trial: Trial, sweep: Sweep) -> list[str]:
    """The command line that trains a trial, and that goes on with it."""
    run = folder_of(trial, sweep).path
    words = [
        f"recipe={sweep.folder.point(trial.point)}",
        written.literal(f"run_folder={run}"),
        written.literal(f"name={sweep.first.name}-{run.name}"),
        *seeds(trial.seed, sweep),
        *(f"launch.{name}={value}" for name, value in points.brought(sweep.first.launch).items()),
    ]
    return [*TRAIN, *words]


def seeds(number: int, sweep: Sweep) -> list[str]:
    """The seeds of a trial's later runs; the split of the rows, which `seed` decides, is that of the first."""
    given = vars(sweep.first.seeds)
    bases = {name: sweep.first.seed if value is None else value for name, value in given.items()}
    return [f"seeds.{name}={base + number}" for name, base in bases.items()] if number else []


def variables(trial: Trial, sweep: Sweep, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the environment of a trial says besides: its devices, its threads, the group of its tracker's run."""
    found = {"WANDB_RUN_GROUP": sweep.first.name, "TRACKIO_DIR": str(sweep.folder / "trackio")}
    threads = max(1, (os.cpu_count() or 1) // max(1, sweep.pool.most))
    if sweep.pool.is_processor and sweep.pool.most > 1:
        found["OMP_NUM_THREADS"] = str(threads)
    found = {name: value for name, value in found.items() if name not in environment}
    return found | ({VISIBLE: ",".join(trial.devices)} if trial.devices else {})
