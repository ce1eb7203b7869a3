"""What a sweep leaves to be read: one line a trial, the page, and the best point as a recipe."""

import csv
import io

from finetune.sweep import page
from finetune.sweep.beginning import Sweep
from finetune.sweep.points import as_recipe, brought
from finetune.sweep.results import Result, interval, of
from finetune.sweep.study import Study
from finetune.sweep.trials import KEPT

BEST = "best.yaml"


def write(sweep: Sweep, study: Study) -> None:
    """Write sweep.csv, sweep.html and the best point."""
    found = of(study)
    sweep.folder.write_text("sweep.csv", as_csv(found, study))
    sweep.folder.write_text("sweep.html", page.page(sweep.first.name, found, study))
    best = study.best()
    if len(best) == 1 and len(study.objectives) == 1:
        point = sweep.folder.point(best[0].user_attrs[KEPT]["point"]).read_text(encoding="utf-8")
        shown = f"{study.objectives[0]} {best[0].values[0]:.6g}, {best[0].user_attrs[KEPT]['words']}"
        said = [f"Trial {best[0].number} of the sweep {sweep.first.name}: {shown}"]
        said.append(f"  finetune train recipe={sweep.folder / BEST}")
        sweep.folder.write_text(BEST, as_recipe(point, said, brought(sweep.first.launch)))


def as_csv(found: list[Result], study: Study) -> str:
    """One line a trial: its point, what it came to, and the mean's half interval where there are several seeds."""
    text = io.StringIO()
    keys = [each.key for each in study.space.dimensions]
    columns = [*study.objectives, *(f"{name} ±" for name in study.objectives)]
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["trial", "state", *keys, *columns, "steps", "seconds", "same as", "reason"])
    for each in found:
        around = [interval(list(seed)) for seed in zip(*each.seeds, strict=True)] if each.values else []
        nothing: list[float | None] = [None] * len(study.objectives)
        values = [*(each.values or nothing), *(around or nothing)]
        seconds = None if each.seconds is None else round(each.seconds, 1)
        line = [each.number, each.state, *(each.params.get(key) for key in keys), *values]
        lines.writerow([*line, each.steps, seconds, each.same_as, each.reason])
    return text.getvalue()
