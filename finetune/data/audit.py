"""What prepared rows are, in numbers: lengths, trained tokens, ends of turns, repeated rows, balance of labels.

Knows token ids and labels. What becomes of the numbers is decided where the plan is made and where they are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune.config.task import IGNORED, Facts
from finetune.data import duplicates
from finetune.data.ragged import Array, Blocks, lengths_of, main_of, parts, ragged
from finetune.data.rows import Rows

COLUMNS = 24
"""Bars of the histogram of lengths."""


def audit(rows: Any, facts: Facts, others: Iterable[Any] = ()) -> dict[str, Any]:
    """The numbers of a split, JSON-able.

    Args:
        rows: prepared rows with `input_ids` and `labels`.
        facts: of the task; `stops` are the tokens that end a turn.
        others: splits that are evaluated on, to find what is in both.
    """
    if not len(rows):
        return {}
    main = main_of(rows)
    evaluated = [Blocks(other, main) for other in others if len(other)]
    found = {
        "rows": len(rows),
        "lengths": _lengths(lengths_of(rows)),
        "duplicates": duplicates.count(Blocks(rows, main), evaluated),
    }
    if is_per_token(rows):
        return {**found, **_trained(rows, facts.get("stops", ())), **_of_tokens(rows, facts)}
    return {**found, **_targets(rows, facts), **_of_rows(rows, facts)}


def audit_all(rows: dict[str, Any], facts: Facts) -> dict[str, dict[str, Any]]:
    """The numbers of every split; train is held against the others."""
    others = [part for split, part in rows.items() if split != "train"]
    return {split: audit(part, facts, others if split == "train" else ()) for split, part in rows.items()}


def is_per_token(rows: Any) -> bool:
    """Whether there is a label for each token, and not one for the row, or none."""
    if isinstance(rows, Rows):
        return "labels" in rows.shards[0].per_token
    first = rows[0]
    return (
        np.ndim(first["labels"]) == 1 and len(first["labels"]) == len(first["input_ids"]) and _whole(first["labels"])
    )


def _whole(labels: Any) -> bool:
    return bool(np.issubdtype(np.asarray(labels).dtype, np.integer))


def _lengths(lengths: Array) -> dict[str, Any]:
    """Shortest, median and longest, and a histogram: how many rows are no longer than each edge."""
    shortest, longest = int(lengths.min()), int(lengths.max())
    # As many lengths in each bar: of uneven ones, every second would stand out.
    step = -(-(longest - shortest + 1) // COLUMNS)
    edges = np.arange(shortest + step - 1, longest + step, step)
    counts = np.bincount(np.searchsorted(edges, lengths), minlength=len(edges))
    return {
        "shortest": shortest,
        "median": int(np.median(lengths)),
        "longest": longest,
        "histogram": [[int(edge), int(rows)] for edge, rows in zip(edges, counts, strict=True)],
    }


def _targets(rows: Any, facts: Facts) -> dict[str, Any]:
    """The lengths of what is learned to be written, where a row's labels are tokens of their own."""
    if facts.get("labels") or not isinstance(rows, Rows) or "labels" not in rows.shards[0].lists:
        return {}
    lengths = rows.list_lengths("labels")
    return {"targets": {**_lengths(lengths), "tokens": int(lengths.sum())}}


def _is_trained(rows: Any) -> Array:
    """Whether each token carries the loss."""
    return rows.tokens("trained") if isinstance(rows, Rows) else ragged(rows, "labels").values != IGNORED


def _trained(rows: Any, stops: Sequence[int]) -> dict[str, Any]:
    """Tokens in the loss, and rows in which a token that ends a turn is among them."""
    tokens, trained, ended = 0, 0, []
    for part in parts(rows):
        ids, mask = ragged(part, "input_ids"), _is_trained(part)
        tokens, trained = tokens + ids.tokens, trained + int(mask.sum())
        ended.append(ids.count(mask & np.isin(ids.values, list(stops))) > 0)
    found = {"tokens": tokens, "trained tokens": trained}
    if not stops:
        return found
    with_end = np.concatenate(ended)
    first = np.flatnonzero(~with_end)[:3].tolist()
    return {**found, "rows with a trained end": int(with_end.sum()), "rows without": first}


def _of_tokens(rows: Any, facts: Facts) -> dict[str, Any]:
    """How often each label of tokens occurs, where they have names."""
    names = facts.get("labels")
    if not names:
        return {}
    counts = np.zeros(len(names), np.int64)
    for labels in Blocks(rows, "labels").blocks():
        counts += np.bincount(labels.values[labels.values != IGNORED], minlength=len(names))
    return {"labels": {name: int(number) for name, number in zip(names, counts, strict=True)}}


def _of_rows(rows: Any, facts: Facts) -> dict[str, Any]:
    """How the labels of rows are spread, where a row has one of a few, or a number; and any other number of a row."""
    beside = [rows.beside(at) for at in range(len(rows))] if isinstance(rows, Rows) else list(rows)
    labels = _spreadable([row["labels"] for row in beside] if "labels" in beside[0] else [], facts)
    others = [name for name, value in beside[0].items() if name != "labels" and not np.ndim(value)]
    found = {name: _spread([row[name] for row in beside]) for name in others}
    return ({"labels": _balance(labels, facts)} if labels else {}) | ({"numbers": found} if found else {})


def _spreadable(labels: list[Any], facts: Facts) -> list[Any]:
    """Several numbers a row are spread like one; whole numbers are the tokens of a text."""
    if not labels or not np.ndim(labels[0]) or facts.get("labels"):
        return labels
    return [] if _whole(labels[0]) else list(np.concatenate(labels))


def _spread(values: Sequence[Any]) -> dict[str, float]:
    """The least, the middle and the greatest of some numbers."""
    least, median, most = np.quantile(np.asarray(values, float), (0, 0.5, 1)).tolist()
    return {"least": round(least, 2), "median": round(median, 2), "most": round(most, 2)}


def _balance(labels: Sequence[Any], facts: Facts) -> dict[str, Any]:
    """How often each label occurs; for numbers, how they are spread."""
    names = facts.get("labels")
    values = np.asarray(labels, dtype=float)
    if not names:
        return {"least": float(values.min()), "mean": round(float(values.mean()), 4), "most": float(values.max())}
    counts = np.bincount(values.astype(int), minlength=len(names)) if values.ndim == 1 else values.sum(axis=0)
    return {name: int(number) for name, number in zip(names, counts, strict=True)}


def rank_worst(rows: Any) -> list[int]:
    """Rows to look at first: half of them the longest, half those with the least share of trained tokens, by turns."""
    lengths = lengths_of(rows)
    longest = np.argsort(-lengths, kind="stable")
    if not is_per_token(rows):
        return [int(at) for at in longest]
    labels = ragged(rows, "labels")
    least = np.argsort(labels.count(labels.values != IGNORED) / lengths, kind="stable")
    return list(dict.fromkeys(int(at) for pair in zip(longest, least, strict=True) for at in pair))
