"""What became of a trial, read from the folder of its run: how far it is, what it scored, what ended it.

Knows a run's files. The exit code is not asked: whoever goes on with a sweep did not start its processes.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.errors import UserError
from finetune.plan.run_folder import RunFolder

DONE = ("verified", "published")
SAID, STOPPED, FAULT = "finetune: ", "finetune: stopped by", "finetune: this is a fault of finetune"
EVALUATED = "eval_"
BESIDE = ("training_seconds", "trainable_parameters")
"""Objectives that are no scores of the model."""


@dataclass(frozen=True)
class Outcome:
    """How processes that are gone have ended."""

    kind: Literal["done", "stopped", "failed", "lost"]
    reason: str = ""


def of(folder: RunFolder, log: Path, since: int) -> Outcome:
    """What ended a run.

    Args:
        log: what its processes printed.
        since: bytes of the log that are of processes before these.
    """
    status, said = folder.read("status.json") or {}, _last_words(log, since)
    if status.get("stage") in DONE and "failed" not in status:
        return Outcome("done")
    if said.startswith(STOPPED):
        return Outcome("stopped", said.removeprefix(SAID))
    if said and not said.startswith(FAULT):
        return Outcome("failed", said.removeprefix(SAID))
    if "failed" in status or said:
        return Outcome("failed", status.get("failed") or f"see {log}")
    return Outcome("stopped", status["stopped"]) if "stopped" in status else Outcome("lost")


def _last_words(log: Path, since: int) -> str:
    """The message that the command line ends with; empty where it did not come to that."""
    try:
        with log.open("rb") as stream:
            stream.seek(since)
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    at = next((at for at in range(len(lines) - 1, -1, -1) if lines[at].startswith(SAID)), None)
    return "" if at is None else "\n".join(lines[at:]).strip()


def step(folder: RunFolder) -> int:
    """The last step that was logged."""
    return max((entry.get("step", 0) for entry in _entries(folder)), default=0)


def evaluations(folder: RunFolder, objective: str) -> list[tuple[int, float]]:
    """The step and the score of each evaluation while training, in order.

    Raises:
        UserError: there are evaluations, and none has such a score.
    """
    entries = [entry for entry in _entries(folder) if any(name.startswith(EVALUATED) for name in entry)]
    key = f"{EVALUATED}{objective}"
    if entries and objective not in BESIDE and not any(key in entry for entry in entries):
        raise unknown(objective, [name.removeprefix(EVALUATED) for name in entries[0] if name.startswith(EVALUATED)])
    return [(entry["step"], entry[key]) for entry in entries if key in entry]


def check_first_scores(folder: RunFolder, objectives: Sequence[str], generates: bool) -> None:
    """Refuse an objective as soon as the untouched model is scored: what it has no score of, no trained one will have.

    Raises:
        UserError: it is none of the scores.
    """
    scores = (folder.read("baseline.json") or {}).get("scores", {})
    for name in objectives if scores and not generates else ():
        if name not in scores and name not in BESIDE:
            raise unknown(name, list(scores))


def values(folder: RunFolder, objectives: Sequence[str]) -> list[float]:
    """What a finished run is worth, one number an objective.

    Raises:
        UserError: an objective is none of its scores.
    """
    evaluation, plan = folder.read("evaluation.json"), folder.read("plan.json")
    known = {
        **evaluation["scores"],
        "training_seconds": evaluation["training_seconds"],
        "trainable_parameters": plan["model"]["trainable"],
    }
    for name in objectives:
        if name not in known:
            raise unknown(name, list(known))
    return [float(known[name]) for name in objectives]


def unknown(objective: str, known: Sequence[str]) -> UserError:
    """An objective that no run logs."""
    from finetune.config.suggest import did_you_mean

    names = [*known, *(name for name in BESIDE if name not in known)]
    guess = did_you_mean(objective, names)
    return UserError(
        f"sweep.objectives: no run scores {objective}. {guess} Scores: {', '.join(names)}".replace("  ", " ")
    )


def _entries(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl; one that is being written is for the next time."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        return
    for line in lines:
        if line.endswith("\n"):
            yield json.loads(line)
