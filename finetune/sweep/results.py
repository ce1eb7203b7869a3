"""What a sweep has found so far: one line a trial, the best point as a recipe, and the page."""

import csv
import io
from dataclasses import dataclass, field
from math import sqrt
from statistics import stdev
from typing import Any

from finetune.sweep.beginning import Sweep
from finetune.sweep.points import as_recipe
from finetune.sweep.study import COMPLETE, FAILED, PRUNED, RUNNING, Study
from finetune.sweep.trials import KEPT

NAMES = {RUNNING: "running", COMPLETE: "finished", PRUNED: "pruned", FAILED: "failed"}
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t, two-sided 95 %, by degrees of freedom from 1; beyond, the normal distribution's is near enough."""
NORMAL = 1.96
BEST = "best.yaml"


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
        attributes, seconds = trial.user_attrs, trial.duration and trial.duration.total_seconds()
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
                seconds,
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


def write(sweep: Sweep, study: Study) -> None:
    """Write sweep.csv, sweep.html and the best point."""
    from finetune.sweep import page

    results = of(study)
    sweep.folder.write_text("sweep.csv", as_csv(results, study))
    sweep.folder.write_text("sweep.html", page.page(sweep.first.name, results, study))
    best = study.best()
    if len(best) == 1 and len(study.objectives) == 1:
        point = sweep.folder.point(best[0].user_attrs[KEPT]["point"]).read_text(encoding="utf-8")
        shown = f"{study.objectives[0]} {best[0].values[0]:.6g}, {best[0].user_attrs[KEPT]['words']}"
        said = [f"Trial {best[0].number} of the sweep {sweep.first.name}: {shown}"]
        sweep.folder.write_text(BEST, as_recipe(point, [*said, f"  finetune train recipe={sweep.folder / BEST}"]))


def as_csv(results: list[Result], study: Study) -> str:
    """One line a trial: its point, what it came to, and the mean's half interval where there are several seeds."""
    text = io.StringIO()
    keys = [each.key for each in study.space.dimensions]
    columns = [*study.objectives, *(f"{name} ±" for name in study.objectives)]
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["trial", "state", *keys, *columns, "steps", "seconds", "same as", "reason"])
    for each in results:
        around = [interval(list(seed)) for seed in zip(*each.seeds, strict=True)] if each.values else []
        values = [*(each.values or [None] * len(study.objectives)), *(around or [None] * len(study.objectives))]
        seconds = None if each.seconds is None else round(each.seconds, 1)
        line = [each.number, each.state, *(each.params.get(key) for key in keys), *values]
        lines.writerow([*line, each.steps, seconds, each.same_as, each.reason])
    return text.getvalue()
