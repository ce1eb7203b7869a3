"""The layout of a run's folder: one name for each thing a run leaves behind.

config.yaml         the resolved config, `finetune train recipe=config.yaml` runs it again
plan.json           what was decided before the first step; the only file a rank reads
plan.md             the same, to be read
questions.json      what is asked before and after training, where answers are wanted
rendered.json       rows of chats as they were rendered, which the saved tokenizer must render alike
metrics.jsonl       one object a line: step, epoch and raw numbers
log.txt             what was said, with the time
run.json            the run's id, and what it began with; a run that goes on must agree with it
checkpoints/        checkpoint-N, to resume from
baseline.json       scores of the untouched model
skipped.json        steps that a guard left out when it went back
model/              the trained model, as transformers and peft load it
probe.safetensors   inputs and logits of the trained model, for verification
probe.json          scores of the trained model and facts of its tokenizer, for verification
evaluation.json     scores, and the untouched model's
answers.jsonl       the trained model's answers, where they are wanted
verification.json   what a fresh process found when it loaded model/
published.json      where the model was uploaded to
status.json         the stage reached, and how it ended
job.sh, job.json    the script of a job of a cluster, and its number; what it said is in job-NUMBER.log
ranks/              the beats of the ranks, where there are several, and what all but the first print
traceback.txt       where the first rank that failed by a fault of the program was
.lock               held by the process that works on the run
"""

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune.errors import Stopped, UserError

log = logging.getLogger("finetune")

SAVED = ("saved", "verified", "published")
DONE = ("verified", "published")
"""Stages in which there is a model, and in which it is proved."""


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds, or will hold, one run."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.path / "model"

    def read(self, name: str) -> Any:
        """A JSON file of the run, or None where it is not there yet."""
        file = self.path / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, whole or not at all."""
        self.write_text(name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run, whole or not at all, whatever becomes of the process or the power."""
        staged = self.path / f".{name}"
        with staged.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        staged.replace(self.path / name)

    def reached(self, stage: str, **details: Any) -> None:
        """Record how far the run has come."""
        self.write("status.json", {"stage": stage, **details})

    @property
    def stage(self) -> str | None:
        """The stage reached; None before there is a run."""
        status = self.read("status.json")
        return status["stage"] if status else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out, but those this one starts. The lock goes with the process, however that ends.

        Raises:
            UserError: another process works on the run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # Not truncated by opening it: it names who holds the lock.
        with os.fdopen(os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8") as file:
            try:
                # Of the process, not of the open file: a data loader's worker that outlives it holds nothing.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if file.read() == _holder(os.getppid()):
                    yield
                    return
                file.seek(0)
                raise UserError(f"{self.path} is in use by {file.read().strip()}; wait for it, or stop it") from None
            file.seek(0)
            file.truncate()
            file.write(_holder(os.getpid()))
            file.flush()
            yield

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Keep what we log in log.txt as well, and record what ends the run early."""
        handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        except BaseException as error:
            self.failed(error)
            raise
        finally:
            log.removeHandler(handler)
            handler.close()

    def failed(self, error: BaseException) -> None:
        """Record what ended the run, beside the stage it had reached."""
        status = self.read("status.json") or {"stage": "planned"}
        how = "stopped" if isinstance(error, Stopped) else "failed"
        self.write("status.json", {"stage": status["stage"], how: str(error) or type(error).__name__})


def _holder(process: int) -> str:
    return f"process {process} on {socket.gethostname()}\n"


def create(output_dir: str, name: str) -> RunFolder:
    """A new folder `output_dir/name/time`, never one that exists.

    Raises:
        UserError: it cannot be made.
    """
    base = Path(output_dir).expanduser() / name / datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        path = base if attempt == 0 else base.with_name(f"{base.name}-{attempt}")
        try:
            path.mkdir(parents=True)
            return RunFolder(path)
        except FileExistsError:
            if not path.is_dir():
                raise UserError(f"output_dir={output_dir}: {path.parent} is not a folder") from None
        except OSError as error:
            raise UserError(f"output_dir={output_dir} cannot be written: {error.strerror}") from None
    raise UserError(f"output_dir={output_dir}: no free folder below {base.parent}")


def check_writable(output_dir: str) -> None:
    """Refuse a folder that could not hold a run, before anything is computed.

    Raises:
        UserError: the folder, or the nearest one above it that exists, cannot be written.
    """
    nearest = Path(output_dir).expanduser().absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"output_dir={output_dir} cannot be written: {nearest} is not a folder this user may write to")


def find(path: str) -> RunFolder:
    """The run at a path.

    Raises:
        UserError: there is no run.
    """
    folder = RunFolder(Path(path).expanduser())
    if not (folder / "plan.json").is_file():
        raise UserError(f"{path} is not the folder of a run (it has no plan.json). Runs lie below runs/NAME/TIME.")
    return folder
