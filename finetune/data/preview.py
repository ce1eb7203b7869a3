"""Rows as they are trained: units of text with their role, whether they carry the loss, and where documents begin.

Knows prepared rows and a tokenizer. How they look is decided in `page` and on the console.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.config.suggest import did_you_mean
from finetune.config.task import IGNORED, Media
from finetune.data.audit import is_per_token, rank_worst
from finetune.data.prepare import Prepared
from finetune.data.ragged import Array, Ragged, ragged
from finetune.data.templates import headers
from finetune.errors import UserError

OTHER = "text"
"""The role of what stands before any message, and of rows that are no chats."""
OUTSIDE = "O"
"""The label of tokens that belong to nothing, in every scheme of tags."""
DOCUMENT = "next document of this packed row"
Named = tuple[str, str, bool]
"""Who speaks a token, the name of its own label, and whether it is trained."""


@dataclass(frozen=True)
class Choice:
    """Which rows are looked at."""

    split: str = "train"
    count: int = 3
    row: int | None = None
    worst: bool = False
    source: str | None = None


@dataclass(frozen=True)
class Unit:
    """The fewest tokens that are whole letters."""

    text: str
    ids: tuple[int, ...]
    role: str
    is_trained: bool
    begins: str = ""
    """What begins with it: the next document of a packed row, the better or the worse answer of a pair."""
    label: str = ""
    """Its own, where that has a name."""


@dataclass(frozen=True)
class Shown:
    """One row."""

    index: int
    units: list[Unit] = field(repr=False)
    tokens: int
    trained: int
    label: str | None
    """Of the row, where it has one label for all its tokens."""
    unit: str = "tokens"
    """What `tokens` counts, where the row is no text."""
    media: Media | None = None
    """What there is to see or hear."""


def shown(prepared: Prepared, choice: Choice) -> list[Shown]:
    """The chosen rows of a split.

    Raises:
        UserError: there is no such split, row or source.
    """
    if choice.split not in prepared.report:
        raise UserError(f"--split {choice.split}: the data has the splits {', '.join(prepared.report)}")
    rows, heads = prepared.rows(choice.split), heads_of(prepared)
    per_token = is_per_token(rows)
    return [_shown(rows[at], at, prepared, heads, per_token) for at in _chosen(rows, choice)]


def heads_of(prepared: Prepared) -> dict[str, list[int]]:
    """What announces each role, for chats."""
    return headers(prepared.tokenizer) if prepared.facts.get("stops") else {}


def _chosen(rows: Any, choice: Choice) -> list[int]:
    if choice.row is not None:
        if not 0 <= choice.row < len(rows):
            raise UserError(f"--row {choice.row}: {choice.split} has the rows 0 to {len(rows) - 1}")
        return [choice.row]
    order: Sequence[int] = rank_worst(rows) if choice.worst else range(len(rows))
    if choice.source is not None:
        order = _of_source(rows, order, choice.source)
    return list(order[: max(0, choice.count)])


def _of_source(rows: Any, order: Sequence[int], source: str) -> list[int]:
    names = rows.by_source
    if len(names) < 2:
        raise UserError(f"--source {source}: the rows come from one source")
    if source not in names:
        hint = did_you_mean(source, names)
        raise UserError(f"--source {source}: the rows come from {', '.join(sorted(names))}. {hint}".rstrip())
    wanted = set(names[source].tolist())
    return [at for at in order if at in wanted]


def _shown(row: dict[str, Any], index: int, prepared: Prepared, heads: dict[str, list[int]], per_token: bool) -> Shown:
    task = prepared.config.task
    if (media := task.shown(row)) is not None:
        units, length = [Unit(media.words, (), OTHER, False)], max(map(np.size, row.values()))
        return Shown(index, units, length, 0, label_of(row["labels"], prepared), task.unit, media)
    ids = [int(token) for token in row["input_ids"]]
    trained = [int(label) != IGNORED for label in row["labels"]] if per_token else [False] * len(ids)
    named = list(zip(_roles(ids, heads), _labels(row, prepared, per_token), trained, strict=True))
    units = list(_units(prepared.tokenizer, ids, named, beginnings(row, task.sequences(row, prepared.facts))))
    label = label_of(row["labels"], prepared) if "labels" in row and not per_token else None
    return Shown(index, units, len(ids), sum(trained), label)


def _roles(ids: list[int], heads: dict[str, list[int]]) -> list[str]:
    """Who speaks each token."""
    names = [OTHER, *heads]
    return [names[number] for number in roles(Ragged(np.asarray(ids), np.asarray([0, len(ids)])), heads)]


def _labels(row: dict[str, Any], prepared: Prepared, per_token: bool) -> list[str]:
    """The name of each token's own label, where it says more than that there is nothing."""
    names = prepared.facts.get("labels")
    if not per_token or not names:
        return [""] * len(row["input_ids"])
    found = ["" if label == IGNORED else names[label] for label in row["labels"]]
    return ["" if name == OUTSIDE else name for name in found]


def _units(tokenizer: Any, ids: Sequence[int], named: Sequence[Named], begins: dict[int, str]) -> Iterator[Unit]:
    start, before = 0, 0
    for at in range(1, len(ids) + 1):
        text = _after(tokenizer, [] if start in begins else ids[before:start], ids[start:at])
        # A letter of several tokens is whole with the last of them; no letter has more than four bytes.
        if text.endswith("�") and at - start < 4 and at < len(ids):
            continue
        role, label, is_trained = named[start]
        yield Unit(text, tuple(ids[start:at]), role, is_trained, begins.get(start, ""), label)
        before, start = start, at


def _after(tokenizer: Any, before: Sequence[int], ids: Sequence[int]) -> str:
    """The text of tokens behind others, which decides whether a space is before them."""
    first, both = (str(tokenizer.decode(list(part))) if part else "" for part in (before, [*before, *ids]))
    return both[len(first) :] if both.startswith(first) else str(tokenizer.decode(list(ids)))


def roles(ids: Ragged, heads: dict[str, list[int]]) -> Array:
    """The role of every token, as a number: 0 before any message, else its place among the heads from 1 on."""
    found = np.full(len(ids.values), -1)
    found[ids.offsets[:-1][ids.lengths() > 0]] = 0
    for number, head in sorted(enumerate(heads.values(), 1), key=lambda item: len(item[1])):
        last = len(ids.values) - len(head) + 1
        if last > 0:
            same = [ids.values[step : step + last] == token for step, token in enumerate(head)]
            found[np.flatnonzero(np.logical_and.reduce(same))] = number
    at = np.maximum.accumulate(np.where(found >= 0, np.arange(len(found)), 0))
    filled: Array = found[at]
    return filled


def by_role(prepared: Prepared, split: str) -> dict[str, tuple[int, int]]:
    """Tokens of each role, and how many of them are trained."""
    rows, heads = prepared.rows(split), heads_of(prepared)
    if not is_per_token(rows):
        return {}
    ids, labels = ragged(rows, "input_ids"), ragged(rows, "labels")
    numbers, trained = roles(ids, heads), labels.values != IGNORED
    names = [OTHER, *heads]
    every, said = (np.bincount(each, minlength=len(names)) for each in (numbers, numbers[trained]))
    return {name: (int(every[at]), int(said[at])) for at, name in enumerate(names) if every[at]}


def beginnings(row: dict[str, Any], sequences: Sequence[tuple[str, int]] = ()) -> dict[int, str]:
    """The tokens that begin one of a row's own sequences; or a document of a packed row, except the first."""
    if sequences:
        names, lengths = zip(*sequences, strict=True)
        return dict(zip([0, *np.cumsum(lengths)[:-1].tolist()], names, strict=True))
    positions = row.get("position_ids")
    if positions is not None:
        return {at: DOCUMENT for at, position in enumerate(positions) if position == 0 and at}
    return dict.fromkeys(np.cumsum(row.get("seq_lengths", ()))[:-1].tolist(), DOCUMENT)


def label_of(label: Any, prepared: Prepared) -> str:
    """The name of a row's label, or its names, its number, or its text."""
    names = prepared.facts.get("labels")
    if not names and np.ndim(label):
        numbers = not np.issubdtype(np.asarray(label).dtype, np.integer)
        return ", ".join(f"{each:g}" for each in label) if numbers else str(prepared.tokenizer.decode(label))
    if not names:
        return f"{label:g}"
    if isinstance(label, int | np.integer):
        return str(names[int(label)])
    return ", ".join(name for name, applies in zip(names, label, strict=True) if applies) or "none"
