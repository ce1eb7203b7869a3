"""The rows of a split and their numbers as one HTML file: no script, nothing loaded, everything escaped.

Knows HTML. What is shown comes from `preview` and `audit`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Any

from finetune.config.task import Media
from finetune.data.preview import Shown, Unit

STYLE = """
:root { --ink: #1d2430; --dim: #6b7482; --line: #e3e7ee; --paper: #fff; --ground: #f5f7fa; --trained: #bfe8cd;
  --trained-ink: #0c4a26; --bar: #5b84c4; --good: #2f9e5f; --system: #8a63c9; --user: #2f6fd0; --assistant: #2f9e5f;
  --tool: #c07a1a; --text: #8791a0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --dim: #98a2b3; --line: #2c3442; --paper: #171c25;
  --ground: #10141b; --trained: #17492d; --trained-ink: #c9f2d8; --bar: #6f97d6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 22px; margin: 0 0 2px; } h2 { font-size: 13px; margin: 0 0 10px; color: var(--dim); font-weight: 600; }
.sub { color: var(--dim); margin: 0 0 20px; overflow-wrap: anywhere; }
.cards { columns: 300px; column-gap: 14px; margin-bottom: 10px; }
.card { break-inside: avoid; margin-bottom: 14px; }
.card, .row { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; } td { padding: 2px 0; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; padding-left: 12px; }
.bar { display: flex; height: 8px; border-radius: 4px; overflow: hidden; background: var(--line); margin: 2px 0 8px; }
.bar i { background: var(--good); } svg { width: 100%; height: 110px; display: block; } rect { fill: var(--bar); }
.axis { display: flex; justify-content: space-between; color: var(--dim); font-size: 12px; }
.row { margin-bottom: 16px; } .row header { display: flex; gap: 14px; flex-wrap: wrap; margin-bottom: 8px; }
.row header b { font-size: 15px; } .row header span { color: var(--dim); }
.row header .label { background: var(--trained); color: var(--trained-ink); border-radius: 6px; padding: 0 8px; }
.turn { border-left: 3px solid var(--text); padding: 2px 0 2px 12px; margin: 6px 0; }
.turn > small { color: var(--dim); display: block; font-size: 12px; }
.system { border-color: var(--system); } .user { border-color: var(--user); } .tool { border-color: var(--tool); }
.assistant { border-color: var(--assistant); }
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.75 ui-monospace, Menlo, Consolas, monospace; }
.tokens i { font-style: normal; box-shadow: inset 0 -1px var(--line); } .tokens i:nth-child(even) { opacity: .82; }
.tokens i.t { background: var(--trained); color: var(--trained-ink); opacity: 1; }
.tokens s { text-decoration: none; color: var(--dim); }
.tokens b { color: var(--trained-ink); border: 1px solid var(--trained); border-radius: 4px; padding: 0 4px;
  margin: 0 2px 0 3px; font: 600 11px system-ui, sans-serif; white-space: nowrap; }
figure { margin: 0; } figcaption { color: var(--dim); font-size: 13px; } audio { width: 100%; max-width: 480px; }
img { display: block; min-height: 96px; max-width: 100%; image-rendering: pixelated; border-radius: 6px; }
.seam { border-top: 2px dashed var(--tool); margin: 10px 0 4px; color: var(--tool); font-size: 12px; }
.key i { font-style: normal; border-radius: 3px; padding: 0 6px;
  background: var(--trained); color: var(--trained-ink); }
"""
ROLES = ("system", "user", "assistant", "tool")


def page(title: str, subtitle: str, cards: Iterable[str], rows: Sequence[Shown]) -> str:
    """A whole document."""
    parts = [
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(title)}</title><style>{STYLE}</style><main>",
        f"<h1>{escape(title)}</h1><p class=sub>{escape(subtitle)}</p>",
        f"<div class=cards>{''.join(cards)}</div>",
        f"<p class=key>{_key(rows)}</p>",
        *(_row(row) for row in rows),
        "</main></html>\n",
    ]
    return "\n".join(parts)


def _key(rows: Sequence[Shown]) -> str:
    """How to read the rows. Where labels are made while training, nothing is marked; images and sounds have no ids."""
    is_marked = any(row.trained or row.label is not None for row in rows)
    marked = "The loss is computed on what is <i>green</i>." if is_marked else ""
    return f"{marked} {'' if any(row.media for row in rows) else 'Hover over a token for its id.'}".strip()


def table(heading: str, lines: Sequence[tuple[str, Any]]) -> str:
    """A card of names and numbers."""
    cells = "".join(f"<tr><td>{escape(name)}<td class=n>{escape(_number(value))}" for name, value in lines)
    return _card(heading, f"<table>{cells}</table>") if lines else ""


def shares(heading: str, lines: Sequence[tuple[str, int, int]]) -> str:
    """A card of bars: a name, a whole, and the part of it that is filled."""
    bars = (
        f"<div>{escape(name)} <span class=sub>{part:,} of {whole:,} ({part / max(1, whole):.1%})</span></div>"
        f"<div class=bar><i style='width:{100 * part / max(1, whole):.2f}%'></i></div>"
        for name, whole, part in lines
    )
    return _card(heading, "".join(bars)) if lines else ""


def histogram(unit: str, lengths: dict[str, Any], what: str = "row") -> str:
    """A card with a bar for each step of the lengths of rows, or of what they are packed of."""
    steps = lengths["histogram"]
    width, most = 100 / len(steps), max(rows for _, rows in steps)
    bars = "".join(
        f"<rect x='{at * width:.3f}' y='{40 - 40 * rows / most:.2f}' width='{width * 0.86:.3f}' "
        f"height='{40 * rows / most:.2f}'><title>up to {edge:,} {unit}: {rows:,} {what}s</title></rect>"
        for at, (edge, rows) in enumerate(steps)
    )
    axis = f"<div class=axis><span>{lengths['shortest']:,}</span><span>median {lengths['median']:,}</span>"
    svg = f"<svg viewBox='0 0 100 40' preserveAspectRatio=none>{bars}</svg>"
    return _card(f"{unit} of a {what}", f"{svg}{axis}<span>{lengths['longest']:,}</span></div>")


def _card(heading: str, body: str) -> str:
    return f"<section class=card><h2>{escape(heading)}</h2>{body}</section>"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _row(row: Shown) -> str:
    trained = f"<span>{row.trained:,} trained ({row.trained / row.tokens:.0%})</span>" if row.trained else ""
    label = "" if row.label is None else f"<span class=label>{escape(row.label)}</span>"
    head = f"<header><b>row {row.index:,}</b><span>{row.tokens:,} {row.unit}</span>{trained}{label}</header>"
    body = "".join(_turns(row.units)) if row.media is None else _media(row.media)
    return f"<section class=row>{head}{body}</section>"


def _media(media: Media) -> str:
    """Within the page, so that it can be sent to somebody."""
    source = f"src='data:{media.type};base64,{b64encode(media.content).decode()}'"
    is_image = media.type.startswith("image/")
    element = f"<img {source} alt=''>" if is_image else f"<audio controls preload=metadata {source}></audio>"
    return f"<figure>{element}<figcaption>{escape(media.words)}</figcaption></figure>"


def _turns(units: Sequence[Unit]) -> Iterator[str]:
    """A block for each run of one role; a seam where a document or a sequence of its own begins."""
    runs: list[list[Unit]] = []
    for _, group in groupby(units, key=lambda unit: unit.role):
        for unit in group:
            if not runs or runs[-1][0].role != unit.role or unit.begins:
                runs.append([])
            runs[-1].append(unit)
    for run in runs:
        if run[0].begins:
            yield f"<div class=seam>{run[0].begins}</div>"
        role = run[0].role if run[0].role in ROLES else ""
        head = f"<small>{role}</small>" if role else ""
        yield f"<div class='turn {role}'>{head}<div class=tokens>{''.join(_tokens(run))}</div></div>"


def _tokens(run: Sequence[Unit]) -> Iterator[str]:
    """Tokens, and behind those of one label its name."""
    for label, units in groupby(run, key=lambda unit: unit.label):
        yield from map(_token, units)
        yield f"<b>{escape(label)}</b>" if label else ""


def _token(unit: Unit) -> str:
    """Newlines are drawn as well as made, so that one at the edge of a span can be seen."""
    text = escape(unit.text).replace("\n", "<s>⏎</s>\n") or "<s>∅</s>"
    kind = " class=t" if unit.is_trained else ""
    return f"<i{kind} title='{' '.join(map(str, unit.ids))}'>{text}</i>"
