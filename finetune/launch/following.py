"""Following a job to its end: what it says as it says it, and its end as if it had been worked on here."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from finetune.errors import BY_CODE, FinetuneError, MachineError, Stopped, UserError
from finetune.launch import jobs, slurm
from finetune.launch.jobs import Job
from finetune.plan.run_folder import RunFolder

EVERY = 2.0
"""Seconds between two looks: SLURM asks not to be polled without a pause."""
BLOCK = 1 << 16


@dataclass
class Tail:
    """What of a log was shown already."""

    at: int = 0

    def new(self, job: Job) -> str:
        """What came since; a log on a network filesystem may lag."""
        try:
            with job.log.open("rb") as stream:
                stream.seek(self.at)
                found = stream.read(BLOCK)
        except OSError:
            return ""
        whole = found[: found.rfind(b"\n") + 1] if len(found) < BLOCK else found
        self.at += len(whole)
        return whole.decode("utf-8", "replace")


def follow(folder: RunFolder, show: Callable[[str], None], seconds: float = EVERY) -> None:
    """Wait for the end of a run's job.

    Args:
        show: is given what the job says, and how it stands when that changes.
    Raises:
        FinetuneError: how the job ended, unless it is done.
        Stopped: it was stopped at a checkpoint and not queued again.
    """
    tail, last, job = Tail(), "", jobs.of(folder)
    while True:
        job = _looked(folder) or job
        if job.state != last:
            why = slurm.reason(job.number) if job.state == "PENDING" else ""
            show(f"job {job.number}: {job.state}{f' ({why})' if why else ''}\n")
            last = job.state
        if not job.is_active:
            break
        _show_new(tail, job, show)
        time.sleep(seconds)
    _show_new(tail, job, show)
    if job.state != "COMPLETED":
        raise _ended(job)


def _looked(folder: RunFolder) -> Job | None:
    """How the job stands; None where SLURM does not answer, as its controller does not while it is started again."""
    try:
        return jobs.of(folder)
    except MachineError:
        return None


def _show_new(tail: Tail, job: Job, show: Callable[[str], None]) -> None:
    while text := tail.new(job):
        show(text)


def _ended(job: Job) -> FinetuneError | Stopped:
    """The end of a job as an error of the kind that its exit code stands for."""
    status, code = job.folder.read("status.json") or {}, slurm.code(job.number)
    said = status.get("failed") or status.get("stopped")
    go_on = f"finetune resume {job.folder.path} queues it again, from its last checkpoint"
    if job.state != "FAILED":
        return MachineError(f"job {job.number} is {job.state}. {go_on}")
    kind = BY_CODE.get(code or 0, FinetuneError)
    if not said:
        return MachineError(f"job {job.number} is FAILED before it trained; what it said is in {job.log}")
    return kind(said if kind in (UserError, MachineError) else f"{said}. {go_on}")
