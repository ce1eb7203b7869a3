"""What each trial has come to so far, as plain values."""

from dataclasses import dataclass, field
from math import sqrt
from statistics import stdev
from typing import Any

from finetune.sweep.study import COMPLETE, FAILED, PRUNED, RUNNING, Study
from finetune.sweep.trials import KEPT

NAMES = {RUNNING: "running", COMPLETE: "finished", PRUNED: "pruned", FAILED: "failed"}
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t, two-sided 95 %, by degrees of freedom from 1; beyond, the normal distribution's is near enough."""
NORMAL = 1.96


@dataclass(frozen=True)
class Result:
    """A trial as it stands."""

    number: int
    state: str
    params: dict[str, Any]
    values: list[float] = field(default_factory=list)
    seeds: list[list[float]] = field(default_factory=list)
    """What each seed was worth."""
    evaluations: dict[int, float] = field(default_factory=dict)
    steps: int | None = None
    seconds: float | None = None
    reason: str = ""
    same_as: int | None = None


def of(study: Study) -> list[Result]:
    """Every trial that was begun."""
    found = []
    for trial in study.trials(*NAMES):
        attributes, taken = trial.user_attrs, trial.duration
        pruning = attributes.get(KEPT, {}).get("pruning")
        reason = attributes.get("reason", "") or (f"after step {pruning}" if trial.state == PRUNED else "")
        found.append(
            Result(
                trial.number,
                NAMES[trial.state],
                trial.params,
                trial.values if trial.state == COMPLETE else [],
                attributes.get(KEPT, {}).get("values", []),
                trial.intermediate_values,
                attributes.get("steps"),
                taken.total_seconds() if taken else None,
                reason,
                attributes.get("same_as"),
            )
        )
    return found


def interval(values: list[float]) -> float | None:
    """Half the 95 % confidence interval of a mean; None of a single value."""
    if len(values) < 2:
        return None
    t = T95[len(values) - 2] if len(values) - 2 < len(T95) else NORMAL
    return t * stdev(values) / sqrt(len(values))
