"""Runs that are stopped on purpose: each in a process forked from this warm one, killed at a step, a save or a time.

The libraries are imported once, so that a run costs its training and not its start.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tiny_runs
import torch
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import TrainerCallback

from finetune import run, worker
from finetune.errors import FinetuneError, Stopped
from finetune.plan.run_folder import RunFolder
from finetune.training import ranks, train

# The lock of progress bars is a semaphore that forked processes share: one that is killed holding it stops all others.
tqdm.set_lock(threading.RLock())

# Steps that are short, saved often and draw random numbers: dropout, a shuffled order, a part of a batch at the end.
SMALL = (
    "evaluation.baseline=false", "trainer.max_steps=12", "trainer.save_strategy=steps", "trainer.save_steps=3",
    "trainer.logging_steps=2", "trainer.per_device_train_batch_size=4", "checkpoint.rehearse=false",
    "guards.longest_first=false",
)  # fmt: skip


@dataclass(frozen=True)
class End:
    """How a process ended."""

    code: int
    """Its exit code; minus the number of the signal that ended it."""
    output: str


def forked(action: Callable[[], object], log: Path) -> int:
    """Start it in a process of its own, with its output in a file; returns the process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        logging.basicConfig(stream=sys.stdout, format="%(message)s", force=True)
        logging.getLogger("finetune").setLevel(logging.INFO)
        # Threads that tokenized before the fork are not there any more.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        action()
        code = 0
    except (FinetuneError, Stopped) as error:
        print(error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ended(pid: int, log: Path, timeout: float = 120) -> End:
    """Wait for a process; one that does not end is killed, and its code is None."""
    for _ in range(int(timeout / 0.01)):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return End(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"still there after {timeout} s:\n{log.read_text(errors='replace')}")


def once(action: Callable[[], object], folder: Path) -> End:
    """Run it in a process of its own and wait."""
    log = folder.with_suffix(".out")
    return ended(forked(action, log), log)


def trained(recipe: Sequence[str], folder: Path, callbacks: Sequence[TrainerCallback] = ()) -> None:
    """What `finetune train … run_folder=` does, up to the saved model."""
    with tiny_runs.own_caches(), joined(callbacks), without_verification():
        run.run(tiny_runs.config([*recipe, f"run_folder={folder}"]))


@contextlib.contextmanager
def without_verification() -> Iterator[None]:
    finish, run.finish = run.finish, lambda folder, made: folder.reached("verified")
    try:
        yield
    finally:
        run.finish = finish


@contextlib.contextmanager
def joined(callbacks: Sequence[TrainerCallback]) -> Iterator[None]:
    """Callbacks of a test among those of the run, after ours."""
    assemble = train.assemble

    def with_callbacks(*arguments: object, **named: object) -> object:
        trainer = assemble(*arguments, **named)
        for callback in callbacks:
            callback.trainer = trainer
            trainer.add_callback(callback)
        return trainer

    train.assemble = with_callbacks
    try:
        yield
    finally:
        train.assemble = assemble


class Kill(TrainerCallback):
    """A signal to this process at one moment of one step; SIGKILL is what a machine that is taken away looks like."""

    def __init__(self, step: int, number: int = signal.SIGKILL, moment: str = "on_step_end") -> None:
        self.step, self.number = step, number
        setattr(self, moment, self.strike)

    def strike(self, args: object, state: object, control: object, **_: object) -> None:
        if state.global_step == self.step:
            if ranks.world_size() == 1:
                self.trainer.settle()  # these steps are shorter than a flush; a kill within one comes at random times
            os.kill(os.getpid(), self.number)


def outcome(folder: Path) -> dict[str, object]:
    """What two runs must have in common to be the same run: weights, optimizer, order of rows, numbers."""
    run_folder = RunFolder(folder)
    newest = max((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((newest / "trainer_state.json").read_text())
    scored = run_folder.read("evaluation.json")
    return {
        "model": {file.name: digest(file) for file in sorted((folder / "model").glob("*.safetensors"))},
        "checkpoint": {file.name: digest(file) for file in sorted(newest.glob("*.safetensors"))},
        "generators": digest(newest / "rank-0" / "generators.safetensors"),
        "state": {name: state[name] for name in ("global_step", "epoch", "best_metric", "best_global_step")},
        "metrics": [without_clock(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()],
        "scores": scored["scores"],
    }


def without_clock(entry: dict) -> dict:
    clocked = ("time", "runtime", "per_second")
    return {name: value for name, value in entry.items() if not name.endswith(clocked)}


def digest(file: Path) -> str:
    """Of the tensors by name, whatever order the file has them in."""
    tensors = load_file(file)
    parts = (name.encode() + tensors[name].contiguous().view(-1).numpy().tobytes() for name in sorted(tensors))
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def differences(one: dict, other: dict) -> list[str]:
    return [f"{name}: {one[name]} != {other[name]}" for name in one if one[name] != other[name]]


def planned_for_ranks(recipe: Sequence[str], folder: Path, count: int = 2) -> RunFolder:
    """A run folder whose plan is for so many ranks."""
    several = ("launch=torchrun", f"launch.nproc_per_node={count}")
    with tiny_runs.own_caches():
        made, prepared = run.planned(tiny_runs.config([*recipe, *several, f"run_folder={folder}"]))
        return run.run_folder(made, prepared)


def started_ranks(
    folder: RunFolder, callbacks: dict[int, Sequence[TrainerCallback]] | None = None, count: int = 2
) -> list[int]:
    """Processes that train together over gloo, as torchrun starts them; returns their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def rank_of(rank: int) -> None:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
        )  # fmt: skip
        with joined((callbacks or {}).get(rank, ())):
            code = worker.rank_of(folder)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    return [forked(lambda rank=rank: rank_of(rank), output(folder, rank)) for rank in range(count)]


def output(folder: RunFolder, rank: int) -> Path:
    """All but the first keep what they print in the run's folder."""
    if rank == 0:
        return folder.path.with_suffix(".out0")
    (folder / "ranks").mkdir(exist_ok=True)
    return folder / "ranks" / f"{rank}.log"


def both_ended(pids: list[int], folder: RunFolder, timeout: float = 120) -> list[End]:
    return [ended(pid, output(folder, rank), timeout) for rank, pid in enumerate(pids)]


class Fail(TrainerCallback):
    """An error of this rank's own at one step: of its code, or of its disk while it saves."""

    def __init__(self, step: int, where: str = "step") -> None:
        self.step, self.where = step, where

    def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
        if state.global_step != self.step:
            return
        if self.where == "step":
            raise ValueError("a fault of the test")

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.trainer._sums = full


class Poison(TrainerCallback):
    """A number that is none, in one place of one step."""

    KINDS = ("weight", "gradient", "infinite gradient", "loss")

    def __init__(self, step: int, kind: str) -> None:
        self.step, self.kind = step, kind

    def on_step_begin(self, args: object, state: object, control: object, model: object = None, **_: object) -> None:
        if state.global_step + 1 != self.step:
            return
        parameter = [each for each in model.parameters() if each.requires_grad][-2]
        if self.kind == "weight":
            parameter.data.view(-1)[0] = float("nan")
        elif self.kind == "loss":
            self.trainer.losses.append(torch.tensor(float("nan")))
        else:
            value = float("nan") if self.kind == "gradient" else float("inf")
            handle = parameter.register_hook(lambda gradient: (handle.remove(), gradient * value)[1])
