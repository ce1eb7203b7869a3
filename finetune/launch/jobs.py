"""Runs that are jobs: which there are, and how they stand by the queue and by their folders.

Knows run folders and SLURM's words; nothing of what is trained. Loads nothing heavy.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import MachineError, UserError
from finetune.launch import slurm
from finetune.plan.run_folder import DONE, RunFolder

log = logging.getLogger(__name__)

NUMBER = re.compile(r"\d+(_\d+)?")
"""Of a job, of an array, or of one task of it."""

JOB, DEPTHS = "job.json", ("", "*/", "*/*/", "*/*/*/", "*/*/*/*/")
"""What names the job of a run, and where runs lie below a folder: NAME/TIME, those of a sweep deeper."""


@dataclass(frozen=True)
class Job:
    """A run and the job it was queued as last."""

    number: str
    folder: RunFolder
    submitted: str
    state: str
    """SLURM's word; where it has forgotten the job, what the run's folder says."""

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in slurm.ACTIVE

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder / f"job-{self.number}.log"


def of(folder: RunFolder) -> Job:
    """The job of a run.

    Raises:
        UserError: the run was not queued as one.
    """
    found = folder.read(JOB)
    if not found:
        raise UserError(f"{folder.path} is not the run of a job (it has no {JOB})")
    return _job(folder, found, slurm.state(found["number"]))


def listed(root: Path) -> list[Job]:
    """The jobs of the runs in a folder, the newest first."""
    folders = [RunFolder(file.parent) for depth in DEPTHS for file in root.expanduser().glob(f"{depth}{JOB}")]
    found = [(folder, folder.read(JOB)) for folder in folders]
    states = slurm.states(each["number"] for _, each in found) if found else {}
    jobs = [_job(folder, each, states[each["number"]]) for folder, each in found]
    return sorted(jobs, key=lambda job: job.submitted, reverse=True)


def cancelled(name: str) -> str:
    """Cancel the job of a run, or one by its number, or an array; says what was done.

    Raises:
        UserError: there is no such job, or it has ended.
        MachineError: SLURM does not answer.
    """
    folder = RunFolder(Path(name).expanduser())
    number = name if NUMBER.fullmatch(name) and not folder.path.exists() else of(folder).number
    if (state := slurm.state(number)) not in slurm.ACTIVE:
        raise UserError(f"job {number} is {state}: there is nothing to cancel")
    slurm.cancel(number)
    return f"job {number} was {state} and is cancelled"


def check_idle(folder: RunFolder) -> None:
    """Refuse a run that a job waits for or works on, which a lock of this machine need not show.

    Raises:
        UserError: there is such a job.
    """
    if not folder.read(JOB):
        return
    try:
        job = of(folder)
    except MachineError as error:
        log.warning("%s was queued as a job, and whether it still is cannot be asked: %s", folder.path, error)
        return
    if job.is_active:
        raise UserError(
            f"{folder.path} is job {job.number}, which is {job.state}. Follow it: finetune jobs follow {folder.path}; "
            f"or end it first: finetune jobs cancel {folder.path}"
        )


def _job(folder: RunFolder, found: dict[str, str], state: str) -> Job:
    known = state if state != slurm.UNKNOWN else _by_folder(folder)
    return Job(found["number"], folder, found["submitted"], known)


def _by_folder(folder: RunFolder) -> str:
    """How a job ended that SLURM has forgotten."""
    status = folder.read("status.json") or {}
    if status.get("stage") in DONE:
        return "COMPLETED"
    return "FAILED" if "failed" in status else slurm.UNKNOWN


def lines(jobs: list[Job]) -> Iterator[str]:
    """One line a job: number, state, the run's stage, its folder, and what ended it."""
    width = max((len(job.number) for job in jobs), default=0)
    for job in jobs:
        status = job.folder.read("status.json") or {}
        said = status.get("failed", "") if not job.is_active and job.state != "COMPLETED" else ""
        first = f": {said.splitlines()[0]}" if said else ""
        yield f"{job.number:>{width}}  {job.state:<10}  {status.get('stage', ''):<10}  {job.folder.path}{first}"
