"""Trials that begin at one moment: one process plans them all, one after the other, and queues them as arrays.

python -m finetune.sweep.together FOLDER

One process a trial would load the libraries as often as there are trials. What is said of a trial is in its own log,
whose last words are those of the command line. Knows nothing of sweeps.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.written import printable
from finetune.errors import FinetuneError, Stopped
from finetune.plan.run_folder import RunFolder
from finetune.sweep import planning
from finetune.sweep.outcome import FAULT, SAID
from finetune.sweep.processes import TRAIN, Start

if TYPE_CHECKING:
    from finetune.launch.arrays import Prepared
    from finetune.plan.plan import Plan
    from finetune.training.signals import Request

log = logging.getLogger("finetune")

TRIALS = "trials.json"


def start(starts: Sequence[Start], name: str, arrays: Path) -> Start:
    """The process that queues several trials.

    Args:
        name: what their arrays are called.
        arrays: a folder of its own is made here.
    """
    arrays.mkdir(exist_ok=True)
    place = arrays / f"{len(list(arrays.iterdir())):03d}"
    place.mkdir()
    listed = [{"words": each.command[len(TRAIN) :], "log": str(each.log)} for each in starts]
    RunFolder(place).write(TRIALS, {"name": name, "trials": listed})
    command = [sys.executable, "-m", "finetune.sweep.together", str(place)]
    return Start(command, place / "log.txt", starts[0].variables, place)


def main() -> None:
    """Plan and queue all trials of a folder."""
    from finetune.training import signals

    planning.quieten()
    place = RunFolder(Path(sys.argv[1]))
    asked = place.read(TRIALS)
    try:
        with signals.heard() as request:
            ready = [each for trial in asked["trials"] for each in _planned(trial["words"], Path(trial["log"]))]
            _queue(ready, place, asked["name"], request)
    except Stopped as error:
        _say(str(error), [Path(trial["log"]) for trial in asked["trials"]])
        sys.exit(error.exit_code)


def _planned(words: list[str], said: Path) -> list[tuple[Prepared, Path]]:
    """A trial and its log; none where it cannot be trained, or its model was saved before, and is verified by now."""
    from finetune import run
    from finetune.config.check import load_config
    from finetune.launch import arrays, queueing

    found: list[tuple[Prepared, Path]] = []

    def prepare(folder: RunFolder, plan: Plan, _: Request) -> None:
        queueing.prepare(folder, plan)
        found.append((arrays.Prepared(folder, plan.config.launch), said))

    with _heard_in(said), _told([said]):
        config, composed = load_config(words)
        run.run(config, composed.notes, launch=prepare)
    return found


def _queue(ready: list[tuple[Prepared, Path]], place: RunFolder, name: str, request: Request) -> None:
    """Queue what is ready: those that ask for the same together."""
    from finetune.launch import arrays, slurm

    logs = {run.folder: said for run, said in ready}
    log.addHandler(logging.StreamHandler(sys.stdout))
    with _told(list(logs.values())):
        groups = arrays.alike([run for run, _ in ready], slurm.most_tasks())
        for number, group in enumerate(groups):
            with _told([logs[run.folder] for run in group]):
                arrays.submit(group, name, place / f"array-{number}.sh", request)


@contextmanager
def _heard_in(said: Path) -> Iterator[None]:
    """What is printed and logged goes to the log of a trial."""
    with said.open("a", buffering=1, encoding="utf-8") as stream, redirect_stdout(stream), redirect_stderr(stream):
        handler = logging.StreamHandler(stream)
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)


@contextmanager
def _told(logs: Sequence[Path]) -> Iterator[None]:
    """An error ends the trials it is of, and not the process."""
    try:
        yield
    except FinetuneError as error:
        _say(str(error), logs)
    except Exception:
        _say(f"{FAULT.removeprefix(SAID)}; the lines above say where", logs, traceback.format_exc())


def _say(last: str, logs: Sequence[Path], before: str = "") -> None:
    for file in logs:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(f"{before}{SAID}{printable(last)}\n")


if __name__ == "__main__":
    main()
