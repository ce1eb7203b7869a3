"""A sweep as one HTML file: no script, nothing loaded, everything escaped. Knows what is worth a figure.

History, evaluations while training, parallel coordinates, importances, the Pareto front of two objectives, seeds.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from statistics import fmean

from finetune.config.space import Choices, Dimension, Interval
from finetune.sweep import drawing, results
from finetune.sweep.drawing import Axis, axis_of, dot, figure, line, shown, text, x, y
from finetune.sweep.results import Result
from finetune.sweep.study import Study

STYLE = """
:root { --ink: #1d2430; --dim: #6b7482; --line: #e3e7ee; --paper: #fff; --ground: #f5f7fa; --bar: #5b84c4;
  --best: #2f9e5f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --dim: #98a2b3; --line: #2c3442; --paper: #171c25;
  --ground: #10141b; --bar: #6f97d6; --best: #48b97a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 22px; margin: 0 0 2px; } h2 { font-size: 13px; margin: 0 0 10px; color: var(--dim); font-weight: 600; }
.sub { color: var(--dim); overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 14px; margin: 20px 0;
  align-items: start; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.wide { grid-column: 1 / -1; overflow-x: auto; }
svg { width: 100%; display: block; } svg text { fill: var(--dim); font-size: 11px; }
text.n { text-anchor: end; } text.m { text-anchor: middle; }
.grid { stroke: var(--line); } .axis { stroke: var(--dim); }
circle { fill: var(--bar); opacity: .85; } circle.best { fill: var(--best); }
circle.pruned { fill: var(--dim); opacity: .6; }
polyline { fill: none; stroke: var(--bar); stroke-width: 1.4; opacity: .7; } polyline.best { stroke: var(--best);
  stroke-width: 2.2; opacity: 1; } polyline.pruned { stroke: var(--dim); opacity: .5; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
td, th { padding: 3px 10px 3px 0; text-align: left; }
td.v { font-variant-numeric: tabular-nums; } tr { border-top: 1px solid var(--line); }
tr.best td { color: var(--best); }
.bar { display: flex; height: 8px; border-radius: 4px; overflow: hidden; background: var(--line); margin: 2px 0 8px; }
.bar i { background: var(--bar); }
"""
SHOWN_SEEDS = 12
Column = tuple[Callable[[Result], float], list[tuple[float, str]]]


@dataclass(frozen=True)
class Found:
    """What a page shows."""

    trials: list[Result]
    """Each point once."""
    study: Study
    best: set[int]


def page(name: str, found: Sequence[Result], study: Study) -> str:
    """The whole document."""
    own = [each for each in found if each.same_as is None]
    shows = Found(own, study, {trial.number for trial in study.best()})
    subtitle = ", ".join(f"{count} {state}" for state, count in Counter(each.state for each in own).items())
    cards = [card for make in CARDS for card in make(shows)]
    return "\n".join(
        [
            "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
            f"<title>{escape(name)}</title><style>{STYLE}</style><main>",
            f"<h1>{escape(name)}</h1><p class=sub>{escape(subtitle)}</p><div class=cards>",
            *cards,
            f"</div>{_table(shows)}</main></html>\n",
        ]
    )


def _history(found: Found) -> Iterator[str]:
    """What each trial was worth, and the best so far."""
    for at, (name, direction) in enumerate(found.study.config.objectives.items()):
        done = [(each.number, each.values[at]) for each in found.trials if each.values]
        pruned = [(each.number, _last(each)) for each in found.trials if each.state == "pruned" and each.evaluations]
        if not done:
            continue
        across, up = (
            Axis(0, max(1, *(number for number, _ in done + pruned))),
            axis_of([value for _, value in done + pruned]),
        )
        places = [(x(across, number), y(up, value)) for number, value in done]
        so_far = list(accumulate((value for _, value in done), max if direction == "maximize" else min))
        marks = [line([(place[0], y(up, value)) for place, value in zip(places, so_far, strict=True)], "best")]
        marks += [dot((x(across, number), y(up, value)), f"trial {number}, pruned: {value:.6g}", "pruned")
                  for number, value in pruned]  # fmt: skip
        marks += [dot(place, f"trial {number}: {value:.6g}", "best" if number in found.best else "")
                  for place, (number, value) in zip(places, done, strict=True)]  # fmt: skip
        yield _card(f"{name}, {direction}d", figure(marks, across, up, ("trial", name)))


def _curves(found: Found) -> Iterator[str]:
    """Evaluations while training."""
    curves = [each for each in found.trials if len(each.evaluations) > 1]
    if not curves:
        return
    values = [value for each in curves for value in each.evaluations.values()]
    across, up = axis_of([at for each in curves for at in each.evaluations]), axis_of(values)
    marks = [
        line([(x(across, at), y(up, value)) for at, value in each.evaluations.items()],
             "best" if each.number in found.best else each.state, f"trial {each.number}, {each.state}")
        for each in curves
    ]  # fmt: skip
    yield _card("evaluations while training", figure(marks, across, up, ("evaluation", found.study.objectives[0])))


def _parallel(found: Found) -> Iterator[str]:
    """A line a trial, through what it was made of to what it was worth."""
    done = [each for each in found.trials if each.values]
    if len(done) < 2:
        return
    width, height = 1120, 300
    columns = [*found.study.space.dimensions, *found.study.objectives]
    places = [60 + at * (width - 160) / max(1, len(columns) - 1) for at in range(len(columns))]
    ups = [_up(column, at - len(found.study.space.dimensions), done) for at, column in enumerate(columns)]
    marks = []
    for place, column, (_, ticks) in zip(places, columns, ups, strict=True):
        title = column if isinstance(column, str) else column.key
        marks += [f"<line class=axis x1={place:.0f} x2={place:.0f} y1=24 y2={height - 14} />",
                  text((place, 10), title, "m")]  # fmt: skip
        marks += [text((place + 6, 24 + (1 - where) * (height - 38) + 4), words) for where, words in ticks]
    for each in sorted(done, key=lambda each: each.number in found.best):
        wheres = [where(each) for where, _ in ups]
        line_of = [(place, 24 + (1 - where) * (height - 38)) for place, where in zip(places, wheres, strict=True)]
        told = f"trial {each.number}: {', '.join(map(shown, each.values))}"
        strength = "" if each.number in found.best else f"opacity:{0.15 + 0.7 * _rank(each, done, found.study):.2f}"
        marks.append(line(line_of, "best" if each.number in found.best else "", told, strength))
    yield _card("every trial", drawing.svg(marks, width, height), "wide")


def _up(column: Dimension | str, objective: int, done: Sequence[Result]) -> Column:
    """Where a trial crosses a column, from 0 to 1, and what stands beside it."""
    if isinstance(column, Choices):
        values = list(column.values)
        part = max(1, len(values) - 1)
        return lambda each: values.index(each.params[column.key]) / part, [
            (at / part, str(value)) for at, value in enumerate(values)
        ]
    if isinstance(column, Interval):
        axis = Axis(column.low, column.high, column.is_log)
        return lambda each: axis.at(each.params[column.key]), [(axis.at(tick), shown(tick)) for tick in axis.ticks]
    axis = axis_of([each.values[objective] for each in done])
    return lambda each: axis.at(each.values[objective]), [(axis.at(tick), shown(tick)) for tick in axis.ticks]


def _rank(each: Result, done: Sequence[Result], study: Study) -> float:
    """From 0 for the worst to 1 for the best, by the first objective."""
    greater = study.config.objectives[study.objectives[0]] == "maximize"
    worse = sum((other.values[0] < each.values[0]) == greater for other in done if other.values[0] != each.values[0])
    return worse / max(1, len(done) - 1)


def _importances(found: Found) -> Iterator[str]:
    """How much each key decides."""
    for at, name in enumerate(found.study.objectives):
        if shares := found.study.importances(at):
            yield _card(f"what decides {name}", drawing.bars(list(shares.items())))


def _front(found: Found) -> Iterator[str]:
    """Two objectives against each other; the front is green."""
    done = [each for each in found.trials if each.values]
    if len(found.study.objectives) != 2 or not done:
        return
    across, up = axis_of([each.values[0] for each in done]), axis_of([each.values[1] for each in done])
    front = sorted(each.values for each in done if each.number in found.best)
    marks = [line([(x(across, one), y(up, other)) for one, other in front], "best")]
    marks += [
        dot((x(across, each.values[0]), y(up, each.values[1])),
            f"trial {each.number}: {shown(each.values[0])}, {shown(each.values[1])}",
            "best" if each.number in found.best else "")
        for each in done
    ]  # fmt: skip
    one, other = found.study.objectives
    yield _card("Pareto front", figure(marks, across, up, (one, other)))


def _seeds(found: Found) -> Iterator[str]:
    """Means over seeds, with what is known of how they would differ for other seeds."""
    done = [each for each in found.trials if len(each.seeds) > 1 and each.values]
    greater = found.study.config.objectives[found.study.objectives[0]] == "maximize"
    done = sorted(done, key=lambda each: each.values[0], reverse=greater)[:SHOWN_SEEDS]
    if not done:
        return
    lines = []
    for each in done:
        values = [seed[0] for seed in each.seeds]
        each_of = " ".join(map(shown, values))
        mean = f"{fmean(values):.4g} ± {results.interval(values):.2g}"
        lines.append(f"<tr><td>{each.number}<td class=v>{mean}<td class=sub>{each_of}")
    head = f"<tr><th>trial<th>{escape(found.study.objectives[0])}, mean ± 95 % interval<th>of each seed"
    yield _card("seeds", f"<table>{head}{''.join(lines)}</table>")


CARDS = (_history, _curves, _front, _importances, _seeds, _parallel)


def _last(each: Result) -> float:
    return list(each.evaluations.values())[-1]


def _card(heading: str, body: str, kind: str = "") -> str:
    return f"<section class='card {kind}'><h2>{escape(heading)}</h2>{body}</section>"


def _table(found: Found) -> str:
    keys = [each.key for each in found.study.space.dimensions]
    head = "".join(
        f"<th>{escape(word)}" for word in ("trial", "", *found.study.objectives, *keys, "steps", "seconds", "")
    )
    lines = []
    for each in found.trials:
        values = [shown(value) for value in each.values] or [""] * len(found.study.objectives)
        params = [shown(each.params.get(key, "")) for key in keys]
        seconds = "" if each.seconds is None else f"{each.seconds:.0f}"
        cells = [str(each.number), each.state, *values, *params, str(each.steps or ""), seconds, each.reason]
        mark = " class=best" if each.number in found.best else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td class=v>{escape(cell)}" for cell in cells))
    return f"<section class='card wide'><table><tr>{head}{''.join(lines)}</table></section>"
