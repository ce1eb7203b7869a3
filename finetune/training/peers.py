"""Whether the other ranks are still there. A rank that died, failed or stands still ends the job everywhere, by name.

Each rank's thread writes a beat every second, whatever its main thread waits for, and reads the others'. A collective
that waits for a rank which is gone would otherwise wait for half an hour, and not say for whom. What stands still
inside a rank that beats is left to the time limit of the process group, `trainer.ddp_timeout`. A rank whose starter
is gone ends as well, so that nobody is left behind; and all of them hear of a request to stop by a file.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.errors import ENVIRONMENT, OUR_FAULT, FinetuneError, MachineError

log = logging.getLogger(__name__)

BEAT = 1.0
PATIENCE = 60.0
"""Seconds without a beat: longer than a network filesystem takes to show one rank's file to another."""
STOP = "stop"
"""The file that names a signal for every rank."""
GRACE = 2.0
"""Seconds in which this rank's own error, which says more, may come first."""


class Echo(MachineError):
    """The end of this rank that is only the end of another."""


class Peers:
    """The beats of all ranks, one file each in `RUN/ranks`."""

    def __init__(self, folder: Path, rank: int, ranks: int, patience: float = PATIENCE) -> None:
        self.folder, self.rank, self.patience = folder, rank, patience
        self.others = [number for number in range(ranks) if number != rank]
        self.seen: dict[int, tuple[Any, float]] = {}
        # Left by the processes that worked on the run before: the others may begin later than this one.
        self.stale = {number: self._beat(number) for number in self.others}
        self.over = threading.Event()
        self.starter, self.has_heard = os.getppid(), False

    def tell(self, state: str, error: BaseException | None = None) -> None:
        """Write this rank's beat; `running`, `failed` or `done`."""
        beat = {"state": state, "pid": os.getpid(), "host": socket.gethostname(), "time": time.time(), **_told(error)}
        staged = self.folder / f".{self.rank}"
        staged.write_text(json.dumps(beat), encoding="utf-8")
        staged.replace(self.folder / f"{self.rank}.json")

    def missing(self) -> str | None:
        """Who is not there any more, and why; None while all are."""
        return next((found for number in self.others if (found := self._missing(number))), None)

    def _missing(self, number: int) -> str | None:
        now, beat = time.monotonic(), self._beat(number)
        last, since = self.seen.get(number, (None, now))
        if beat != last or number not in self.seen:
            self.seen[number] = (beat, now)
            since = now
        if beat is None or beat == self.stale[number]:
            return None  # it has not begun
        who = f"rank {number} (process {beat['pid']} on {beat['host']})"
        if beat["state"] == "failed":
            return f"{who} failed: {beat['why']}"
        if beat["state"] == "running" and beat["host"] == socket.gethostname() and not _is_alive(beat["pid"]):
            return f"{who} is gone without a word, as a process killed for its memory is"
        if beat["state"] == "running" and now - since > self.patience:
            return f"{who} has stood still for {now - since:.0f} s"
        return None

    def _beat(self, number: int) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / f"{number}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found

    def missing_soon(self) -> str | None:
        """Whether an error of this rank is the echo of another's end, which may take a moment to show."""
        for _ in range(20):
            if gone := self.missing():
                return gone
            time.sleep(GRACE / 20)
        return None

    def watch(self) -> None:
        """Beat and look until it is over; where a rank is missing, end this process."""
        while not self.over.wait(BEAT):
            self.tell("running")
            self._listen()
            gone = self._starter_missing() or self.missing()
            if gone and not self.over.wait(GRACE) and (gone := self._starter_missing() or self.missing()):
                print(f"finetune: rank {self.rank} ends, because {gone}", file=sys.stderr, flush=True)
                self.tell("failed", Echo(gone))
                os._exit(ENVIRONMENT)

    def _listen(self) -> None:
        """A signal for all ranks reaches this one's main thread as if it had been sent to it."""
        if not self.has_heard and (named := _read(self.folder / STOP)):
            self.has_heard = True
            os.kill(os.getpid(), signal.Signals[named])

    def _starter_missing(self) -> str | None:
        return None if os.getppid() == self.starter else f"process {self.starter}, which started it, is gone"


@contextmanager
def watched(folder: Path, rank: int, ranks: int, patience: float = PATIENCE) -> Iterator[Peers | None]:
    """Watch the others while this rank works, and let them and whoever started it know how it ends."""
    if ranks == 1 and "RANK" not in os.environ:
        yield None
        return
    folder.mkdir(exist_ok=True)
    (folder / f"{rank}.json").unlink(missing_ok=True)
    peers = Peers(folder, rank, ranks, patience)
    peers.tell("running")
    thread = threading.Thread(target=peers.watch, daemon=True)
    thread.start()
    ended: BaseException | None = None
    try:
        yield peers
    except BaseException as error:
        ended = error
        gone = peers.missing_soon() if isinstance(error, Exception) and not isinstance(error, FinetuneError) else None
        if gone:
            ended = Echo(f"ends, because {gone}")
            raise ended from error
        raise
    finally:
        peers.over.set()
        thread.join()
        peers.tell("failed" if ended else "done", ended)


def clear(folder: Path) -> None:
    """Forget the ranks of before, and what they were asked."""
    for file in [*folder.glob("*.json"), folder / STOP]:
        file.unlink(missing_ok=True)


def ask(folder: Path, name: str) -> None:
    """Ask every rank to stop, by the name of a signal."""
    folder.mkdir(exist_ok=True)
    (folder / STOP).write_text(name, encoding="utf-8")


def first_failure(folder: Path) -> tuple[int, str, int] | None:
    """Rank, message and exit code of what ended the ranks: the first that failed by itself, not by another's end."""
    beats = {int(file.stem): json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")}
    failed = [(rank, beat) for rank, beat in beats.items() if beat["state"] == "failed"]
    if not failed:
        return None
    rank, beat = min(failed, key=lambda each: (each[1]["is_echo"], each[1]["time"]))
    return rank, beat["message"], beat["code"]


def _told(error: BaseException | None) -> dict[str, Any]:
    """What a beat says of the error that ended a rank."""
    if error is None:
        return {}
    message = str(error).strip() or type(error).__name__
    code = getattr(error, "exit_code", OUR_FAULT)
    return {"why": message.splitlines()[0], "message": message, "code": code, "is_echo": isinstance(error, Echo)}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
