"""Trials as jobs of a cluster: a process here plans a trial and queues it; from then on its job is what runs.

What is known of a job is in the folder of its run, so whoever comes after finds it. Knows nothing of sweeps.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError, MachineError
from finetune.launch import slurm
from finetune.launch.following import EVERY
from finetune.launch.jobs import JOB
from finetune.plan.run_folder import RunFolder
from finetune.sweep import together
from finetune.sweep.processes import Handle, Local, Start


class Queued:
    """A process of this machine until the job is queued, the job afterwards.

    Trials that begin at one moment have that process in common, and are the tasks of an array.
    """

    starts_several = True

    def __init__(self, name: str, arrays: Path) -> None:
        """Launch trials.

        Args:
            name: what their arrays are called.
            arrays: the folder for the scripts.
        """
        self.name, self.arrays, self.here = name, arrays, Local()
        self.states: dict[str, str] = {}
        """How each job was at the last look: SLURM is asked for all of them at once, and not too often."""
        self.looked = float("-inf")

    def start(self, starts: Sequence[Start]) -> tuple[list[Handle], Any]:
        """Start the process that queues the jobs; it waits to be told to begin."""
        first = starts[0] if len(starts) == 1 else together.start(starts, self.name, self.arrays)
        (handle,), gate = self.here.start([first])
        return [handle | {"run": str(each.run), "before": _number(each.run)} for each in starts], gate

    def begin(self, waiting: Any) -> None:
        """Open the gate."""
        self.here.begin(waiting)

    def is_running(self, handle: Handle) -> bool:
        """Whether the one of them is there whose turn it is."""
        if (job := _job(handle)) is None and self.here.is_running(handle):
            return True
        # Looked for again: the process may have queued it and ended between the two looks.
        job = job or _job(handle)
        return job is not None and self._is_active(job)

    def stop(self, handle: Handle) -> None:
        """The ranks of a job that is cancelled save what they have."""
        if job := _job(handle):
            self._cancel(job)
        else:
            self.here.stop(handle)

    def end(self, handle: Handle) -> None:
        """End what is left."""
        if job := _job(handle):
            self._cancel(job)
        elif handle:
            self.here.end(handle)

    def _cancel(self, job: str) -> None:
        if self._is_active(job):
            with suppress(FinetuneError):  # it has ended meanwhile, or SLURM does not answer: it is looked after again
                slurm.cancel(job)

    def _is_active(self, job: str) -> bool:
        """Whether a job waits or runs; one that SLURM does not speak of for now does."""
        if job not in self.states or time.monotonic() - self.looked >= EVERY:
            self.looked = time.monotonic()
            try:
                self.states = slurm.states({*self.states, job})
            except MachineError:
                self.states.setdefault(job, "PENDING")
        return self.states[job] in slurm.ACTIVE


def _job(handle: Handle) -> str | None:
    """The number of the job that the process of a handle has queued."""
    number = _number(Path(handle["run"])) if handle else None
    return None if number == (handle or {}).get("before") else number


def _number(run: Path) -> str | None:
    return (RunFolder(run).read(JOB) or {}).get("number")
