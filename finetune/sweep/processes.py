"""Trials as processes of this machine: started once, asked to stop, known again by whoever comes after.

What is known of a process is a few plain values, which the study keeps. Knows nothing of sweeps.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from finetune.errors import MachineError

Handle = dict[str, Any]
"""Plain values by which a trial's processes are found again."""
TRAIN = (sys.executable, "-m", "finetune", "train")
"""What the command of a trial begins with."""
GATE = 'read -r go && exec "$@" </dev/null'
"""Begins when it is told to, and not at all where whoever would tell it is gone."""


@dataclass(frozen=True)
class Start:
    """What is started of a trial."""

    command: Sequence[str]
    log: Path
    """What it prints."""
    variables: Mapping[str, str]
    """What its environment says besides."""
    run: Path
    """The folder of the run that the command trains."""


class Launcher(Protocol):
    """Where trials run."""

    starts_several: bool
    """Whether trials that begin at one moment are started together; else a crash between is of one of them."""

    def start(self, starts: Sequence[Start]) -> tuple[list[Handle], Any]:
        """Bring up the processes of trials that begin at one moment; they wait for `begin`.

        Returns:
            A handle for each, and what is for `begin` alone.
        """

    def begin(self, waiting: Any) -> None:
        """Let them work, now that their handle is kept."""

    def is_running(self, handle: Handle) -> bool:
        """Whether any of them is there."""

    def stop(self, handle: Handle) -> None:
        """Ask them to save what they have and to end."""

    def end(self, handle: Handle) -> None:
        """End what is left of them, now."""


class Local:
    """Processes of this machine, each the first of a group and a session of its own."""

    starts_several = False

    def start(self, starts: Sequence[Start]) -> tuple[list[Handle], Any]:
        """Start processes that wait to be told to begin."""
        processes = [_waiting(each) for each in starts]
        host = socket.gethostname()
        return [{"pid": each.pid, "begun": _begun(each.pid), "host": host} for each in processes], processes

    def begin(self, waiting: Any) -> None:
        """Open the gates."""
        for process in waiting:
            with suppress(BrokenPipeError):  # it was killed meanwhile, which is noticed where it is looked after
                process.stdin.write(b"go\n")
                process.stdin.close()

    def is_running(self, handle: Handle) -> bool:
        """Whether it is there, and is the one that was started: numbers of processes are given out again.

        Raises:
            MachineError: it is on another machine.
        """
        if handle["host"] != socket.gethostname():
            raise MachineError(f"a trial runs on {handle['host']}. Go on with the sweep there")
        with suppress(ChildProcessError):
            os.waitpid(handle["pid"], os.WNOHANG)
        return handle["begun"] is not None and _begun(handle["pid"]) == handle["begun"]

    def stop(self, handle: Handle) -> None:
        """Ask the first process; it passes the word on to its ranks."""
        if self.is_running(handle):
            os.kill(handle["pid"], signal.SIGTERM)

    def end(self, handle: Handle) -> None:
        """End the group: also what a first process that was killed has left."""
        if self.is_running(handle) or _begun(handle["pid"]) is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(handle["pid"], signal.SIGKILL)


def _waiting(start: Start) -> "subprocess.Popen[bytes]":
    with start.log.open("ab") as output:
        return subprocess.Popen(
            ["/bin/sh", "-c", GATE, "sh", *start.command], stdin=subprocess.PIPE, stdout=output, stderr=output,
            env=os.environ | dict(start.variables), start_new_session=True,
        )  # fmt: skip


def _begun(pid: int) -> float | None:
    """When a process began, by the machine's own clock; None where there is none that could do anything."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return _ticks(pid) or process.create_time()
    except psutil.NoSuchProcess:
        return None


def _ticks(pid: int) -> float | None:
    """Since the machine was started: unlike the time of day, nobody sets it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return float(stat.rpartition(")")[2].split()[19])
