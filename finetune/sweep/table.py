"""The trials of a sweep on a terminal, redrawn while they run. Formats; decides nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from finetune.sweep import outcome
from finetune.sweep.results import Result, of
from finetune.sweep.sweep import Watch, Work

ENDED_SHOWN = 8


@contextmanager
def shown(console: Console) -> Iterator[Watch]:
    """What draws the table; nothing is drawn where there is no terminal."""
    if not console.is_terminal:
        yield lambda _: None
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield lambda work: live.update(table(work))


def table(work: Work) -> Table:
    """Those that run, those that ended last, and the best."""
    drawn = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("trial", "", "step", *work.ledger.study.objectives, "point"):
        drawn.add_column(heading, justify="right" if heading in ("trial", "step") else "left")
    best = {trial.number for trial in work.ledger.study.best()}
    results = [each for each in of(work.ledger.study) if each.same_as is None]
    ended = [each for each in results if each.state != "running"]
    last = [each for each in ended if each in ended[-ENDED_SHOWN:] or each.number in best]
    for each in [*last, *(each for each in results if each.state == "running")]:
        mark = "best" if each.number in best else each.state
        drawn.add_row(*_row(each, mark, work), style="green" if each.number in best else None)
    counts = f"{len(ended)} of {work.sweep.settings.n_trials}"
    drawn.caption = f"{counts} ended, {len(work.running)} running"
    return drawn


def _row(each: Result, mark: str, work: Work) -> list[str]:
    names = work.ledger.study.objectives
    newest = list(each.evaluations.values())[-1:] if not each.values else each.values
    values = [f"{value:.4g}" for value in newest] + [""] * (len(names) - len(newest))
    running = next((trial for trial in work.running if trial.number == each.number), None)
    step = outcome.step(work.folder(running)) if running else each.steps
    point = "  ".join(f"{key.rpartition('.')[2]}={_shown(value)}" for key, value in each.params.items())
    return [str(each.number), mark, str(step or ""), *values, each.reason or point]


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
