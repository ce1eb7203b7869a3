"""SLURM's own programs, asked in their own words: sbatch, squeue, sacct, scontrol, scancel. Knows jobs by number.

submit(script) → number of the job; state(number) → SLURM's word for how it is. The tasks of an array are jobs as well:
4 of 123 is the job 123_4.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from finetune.errors import FinetuneError, MachineError, UserError

SCRIPT = "job.sh"
UNKNOWN = "UNKNOWN"
"""The state of a job that SLURM has forgotten: without accounting, minutes after its end, or, for a task of an array
that is cancelled before it begins, at once."""
ACTIVE = frozenset({
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING",
    "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD",
})  # fmt: skip
NO_ANSWER = re.compile(r"[Uu]nable to contact|timed out|[Cc]ommunication|configuration (file|source)|[Mm]unge|Zero")
"""What SLURM says where it is not the request that is wrong."""
SECONDS = 30


def check_here() -> None:
    """Refuse a machine that queues no jobs.

    Raises:
        MachineError: there is no sbatch.
    """
    if not shutil.which("sbatch"):
        raise MachineError(
            "launch=slurm: there is no sbatch on this machine. Submit from a login node of the cluster; "
            "launch=local or launch=torchrun trains here, and --dry-run prints the script"
        )


def submit(script: Path) -> str:
    """Queue a script; the number of the job.

    Raises:
        UserError: SLURM refuses what is asked for.
        MachineError: SLURM does not answer.
    """
    said = _asked(["sbatch", "--parsable", str(script)])
    return said.strip().splitlines()[-1].partition(";")[0]


def check(script: str) -> str:
    """What SLURM would do with a script, without queueing it.

    Raises:
        UserError: SLURM refuses what is asked for.
        MachineError: SLURM does not answer.
    """
    return _asked(["sbatch", "--test-only"], script).strip().removeprefix("sbatch: ")


def state(job: str) -> str:
    """SLURM's word for how a job is: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, …; UNKNOWN where it forgot.

    Raises:
        MachineError: SLURM does not answer.
    """
    return states([job])[job]


def states(jobs: Iterable[str]) -> dict[str, str]:
    """The state of each job; sacct is asked for those that squeue has forgotten, where there is accounting.

    An array as a whole is as one of its tasks is, one that is not over before all others.
    """
    wanted = list(jobs)
    tasks = _rows(_asked(["squeue", "--noheader", "--array", "--states=all", "--me", "--format=%i|%T"]))
    in_order = sorted(tasks.items(), key=lambda row: row[1] in ACTIVE)
    arrays = {job.partition("_")[0]: word for job, word in in_order}
    found = dict.fromkeys(wanted, UNKNOWN) | arrays | tasks
    if forgotten := [job for job in wanted if found[job] == UNKNOWN]:
        found |= _accounted(forgotten)
    return {job: found[job] for job in wanted}


def code(job: str) -> int | None:
    """The exit code of a job that has ended; None where SLURM has forgotten it."""
    try:
        shown = _asked(["scontrol", "show", "job", "--oneliner", job])
    except FinetuneError:
        return None
    ended = re.search(r"\bExitCode=(\d+):(\d+)", shown)
    return int(ended[1]) if ended else None


def reason(job: str) -> str:
    """Why a job waits, in SLURM's words; empty where it does not."""
    try:
        said = _asked(["squeue", "--noheader", "--array", "--me", "--format=%i|%r"])
    except FinetuneError:
        return ""
    why = _rows(said).get(job, "")
    return "" if why in ("None", "") else why


def most_tasks() -> int:
    """How many tasks an array may have; 1 where SLURM queues none, or does not say.

    Raises:
        MachineError: SLURM does not answer.
    """
    said = re.search(r"^MaxArraySize\s*=\s*(\d+)", _asked(["scontrol", "show", "config"]), re.MULTILINE)
    return max(1, int(said[1])) if said else 1


def cancel(job: str) -> None:
    """Take a job out of the queue, or end it.

    Raises:
        UserError: there is no such job, or it is another user's.
        MachineError: SLURM does not answer.
    """
    _asked(["scancel", job])


def _accounted(jobs: list[str]) -> dict[str, str]:
    try:
        said = _asked(["sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={','.join(jobs)}",
                       "--format=JobID,State"])  # fmt: skip
    except FinetuneError:
        return {}
    return _rows(said)


def _rows(said: str) -> dict[str, str]:
    """`number|word and more` to number and word."""
    pairs = (line.strip().partition("|") for line in said.splitlines() if "|" in line)
    return {job: (word.split() or [UNKNOWN])[0] for job, _, word in pairs}


def _asked(command: list[str], given: str | None = None) -> str:
    """What a program of SLURM says; sbatch says the result of a test as if it were an error."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError:
        raise MachineError(f"there is no {command[0]} on this machine; ask from a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"{command[0]} does not answer in {SECONDS} s; `scontrol ping` says how SLURM is") from None
    if done.returncode == 0:
        return done.stdout or done.stderr
    said = "; ".join(
        re.sub(rf"^({command[0]}: )?(error: |fatal: |allocation failure: )?", "", line)
        for line in done.stderr.splitlines()
    )
    if NO_ANSWER.search(said):
        raise MachineError(f"SLURM does not answer {command[0]}: {said}")
    raise UserError(f"SLURM refuses: {said}")
