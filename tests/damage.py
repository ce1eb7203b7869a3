"""What a crash, a power cut, a bad disk or a full one does to a checkpoint, done on purpose."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cells
from crash import End, differences, once, outcome, trained
from transformers import TrainerCallback

from finetune.plan.run_folder import RunFolder
from finetune.training import checkpoint

WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
state: dict = {"countdown": None, "below": "", "flushed": set(), "renames": []}


def hook(event: str, arguments: tuple) -> None:
    """Every file operation below the folder counts; at zero the process is gone."""
    if state["countdown"] is None or event not in WATCHED or state["below"] not in str(arguments[0]):
        return
    if event == "open" and isinstance(arguments[1], str) and not set(arguments[1]) & set("wax+"):
        return
    operation(str(arguments[:2]))
    if event == "os.rename":
        state["renames"].append((str(arguments[0]), str(arguments[1])))


def operation(_: str) -> None:
    state["countdown"] -= 1
    if state["countdown"] < 0:
        state["countdown"] = None
        (Path(state["notes"])).write_text(json.dumps([sorted(state["flushed"]), state["renames"]]))
        os._exit(77)


class EveryOperation(TrainerCallback):
    """At one step, the save is made again and again in a copy, and killed at its first, second, third … operation."""

    def __init__(self, step: int, results: Path) -> None:
        self.step, self.results = step, results

    def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
        if state.global_step == self.step:
            self.trainer.settle()  # a thread does not outlive the forks below
            self.results.write_text(json.dumps(list(self.sweep(Path(args.output_dir)))))
            os._exit(0)

    def sweep(self, checkpoints: Path) -> Iterator[list]:
        sys.addaudithook(hook)
        run = self.trainer.lineage.run
        for number in range(1000):
            copy = checkpoints.with_name(f"killed{number}")
            shutil.copytree(checkpoints, copy)
            finished = self.killed_at(number, copy)
            for kind in ("process", "power"):
                if kind == "power":
                    lose_power(copy)
                newest = checkpoint.newest(copy, run)
                step = checkpoint.step_of(newest) if newest else None
                # A save that returned is kept whatever comes; before, the old one or the new one is there.
                yield [number, kind, step, step == self.step if finished else step in (self.step, self.step - 1)]
            shutil.rmtree(copy)
            if finished:
                return

    def killed_at(self, number: int, copy: Path) -> bool:
        pid = os.fork()
        if not pid:
            state.update(below=str(copy), flushed=set(), renames=[], notes=str(copy) + ".notes", countdown=number)
            fsync = os.fsync

            def flushing(opened: int) -> None:
                name = str(Path(f"/proc/self/fd/{opened}").readlink())
                if state["below"] in name:
                    operation(name)
                fsync(opened)
                state["flushed"].add(name)

            os.fsync = flushing
            self.trainer.args.output_dir = str(copy)
            self.trainer.args.save_total_limit = 1
            self.trainer._save_checkpoint(self.trainer.model)
            self.trainer.settle()
            state["countdown"] = None
            Path(state["notes"]).write_text(json.dumps([sorted(state["flushed"]), state["renames"]]))
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def lose_power(folder: Path) -> None:
    """What was never flushed is not there after a power cut: files are empty; what was renamed keeps its name."""
    notes = Path(f"{folder}.notes")
    flushed, renames = json.loads(notes.read_text())
    notes.unlink()
    safe = set(flushed)
    for old, new in renames:
        safe |= {name.replace(old, new, 1) for name in safe if name.startswith(old + "/")}
    before = {path.name for path in folder.with_name("checkpoints").glob("checkpoint-*")}
    for path in folder.rglob("*"):
        is_old = any(part in before for part in path.relative_to(folder).parts)
        if path.is_file() and not is_old and str(path) not in safe:
            path.write_bytes(b"")


def read(results: Path, end: End) -> tuple[int, int, str]:
    if not results.is_file():
        return 1, 0, end.output[-500:]
    cases = json.loads(results.read_text())
    wrong = [case for case in cases if not case[3]]
    return len(cases), len(cases) - len(wrong), f"{len(cases) // 2} operations {wrong or ''}"


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "missing": lambda file, _: file.unlink(),
    "empty": lambda file, _: file.write_bytes(b""),
    "half": lambda file, _: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "one bit": lambda file, _: file.write_bytes(flipped(file.read_bytes())),
    "zeros": lambda file, _: file.write_bytes(bytes(file.stat().st_size)),
    "another step's": lambda file, other: shutil.copy(other, file),
}


def flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def corrupt_everything(run: Path, scratch: Path) -> tuple[int, int, str]:
    """Every file × every damage, on the newest of two checkpoints."""
    newest, older = checkpoint.found(run / "checkpoints")[:2]
    cases, wrong = 0, []
    for file in sorted(path for path in newest.rglob("*") if path.is_file()):
        inner = file.relative_to(newest)
        for name, damage in DAMAGES.items():
            if file.read_bytes() == (older / inner).read_bytes() and name == "another step's":
                continue
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.copytree(run / "checkpoints", scratch)
            damage(scratch / newest.name / inner, older / inner)
            with said() as lines:
                taken = checkpoint.newest(scratch, checkpoint.read(older).run)
            cases += 1
            good = taken and taken.name == older.name and len(lines) == 1 and newest.name in lines[0]
            wrong += [] if good else [(str(inner), name)]
    return cases, cases - len(wrong), str(wrong or "")


@contextmanager
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("finetune.training.checkpoint").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("finetune.training.checkpoint").removeHandler(handler)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A filesystem of its own; needs root."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def full_disks(base: Path) -> tuple[int, int, str]:
    straight, _ = cells.straight("full", cells.KILLED["full"], base)
    used = sum(path.stat().st_size for path in (base / "straight-full").rglob("*") if path.is_file()) // 1024
    wrong = []
    for share in (0.35, 0.5, 0.6, 0.7, 0.8):
        with small_disk(base / f"disk{share}", f"{int(used * share)}k") as place:
            folder = place / "run"
            end = once(lambda folder=folder: trained(cells.KILLED["full"], folder), base / f"disk{share}run")
            last = checkpoint.found(folder / "checkpoints")
            intact = not last or not checkpoint.fault(last[0])
            full = ("MB are free", "No space left")
            lines = [line for line in end.output.splitlines() if "could not be written" in line and any(
                each in line for each in full)]  # fmt: skip
            subprocess.run(["mount", "-o", f"remount,size={used * 3}k", str(place)], check=True)
            later = once(lambda folder=folder: trained(cells.KILLED["full"], folder), base / f"disk{share}later")
            good = end.code in (0, 3) and intact and (end.code == 0 or lines) and later.code == 0
            good = good and not differences(straight, outcome(RunFolder(folder).path))
            wrong += [] if good else [(share, end.code, intact, end.output[-300:], later.code)]
    return 5, 5 - len(wrong), str(wrong or "")
