"""Runs that are queued together: those that ask SLURM for the same are the tasks of one array.

Knows folders of runs and what each asks for; nothing of what is trained, nor of why they go together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.config.launch import LaunchConfig
from finetune.launch import queueing, sbatch, slurm
from finetune.plan.run_folder import RunFolder
from finetune.training.signals import Request


@dataclass(frozen=True)
class Prepared:
    """A run whose script is written and not queued."""

    folder: RunFolder
    launch: LaunchConfig


def alike(runs: Sequence[Prepared], most: int) -> list[list[Prepared]]:
    """Runs by what they ask for, in their order.

    Args:
        most: tasks that an array may have.
    """
    found: dict[tuple[tuple[str, object], ...], list[Prepared]] = {}
    for run in runs:
        found.setdefault(tuple(sbatch.requests(run.launch)), []).append(run)
    return [group[at : at + most] for group in found.values() for at in range(0, len(group), most)]


def submit(runs: Sequence[Prepared], name: str, script: Path, request: Request) -> None:
    """Queue runs that ask for the same: an array, whose script is written, or a single one by its own.

    Raises:
        UserError: SLURM refuses what is asked for.
        MachineError: SLURM does not answer.
        Stopped: that was asked for meanwhile, and the array is cancelled.
    """
    folders = [run.folder for run in runs]
    paths = [folder.path.absolute() for folder in folders]
    if len(runs) == 1:
        queueing.submit(paths[0] / slurm.SCRIPT, folders, request)
        return
    script.write_text(sbatch.array(runs[0].launch, name, script.with_suffix(".log"), paths), encoding="utf-8")
    queueing.submit(script, folders, request)
