"""Prepared rows as the Trainer takes them: an index of pieces over memory-mapped shards. Knows no file formats.

A row is one piece of a shard's row, or several documents packed one after another. Nothing is copied before a row is
asked for, so changing the mixture, the length or the packing writes a new index and no tokens.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from finetune.data.shards import IGNORED, Array, Columns, Shard

PIECE = np.dtype([("shard", "<i4"), ("row", "<i4"), ("begin", "<i8"), ("length", "<i4")])
"""A stretch of tokens: of which shard and which of its rows, the position of its first token there, its length."""


class Rows:
    """A map-style data set. `rows[3]` is a row as lists; loaders take arrays, through `__getitems__`."""

    def __init__(self, shards: Sequence[Shard], pieces: Array, starts: Array | None = None) -> None:
        self.shards, self.pieces = tuple(shards), pieces
        self.is_packed = starts is not None
        self.starts = np.arange(len(pieces) + 1) if starts is None else starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[Columns]:
        return (self[at] for at in range(len(self)))

    def __getitem__(self, at: int | str) -> Any:
        """A row as lists, or a column of all rows."""
        if isinstance(at, str):
            return [row[at] for row in self]
        if not -len(self) <= at < len(self):
            raise IndexError(f"row {at} of {len(self)}")
        return {name: value.tolist() for name, value in self._row(at % len(self)).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Columns]:
        """Rows as arrays, int64 where they are integers, as torch indexes with."""
        return [self._row(at) for at in indices]

    def select(self, indices: Sequence[int]) -> "Rows":
        """Some of the rows, in this order."""
        chosen = np.asarray(indices, np.int64)
        begins, counts = self.starts[chosen], np.diff(self.starts)[chosen]
        pieces = self.pieces[ranges(begins, counts)]
        return Rows(self.shards, pieces, _starts(counts) if self.is_packed else None)

    @cached_property
    def lengths(self) -> Array:
        """Tokens of each row."""
        ends = np.concatenate([[0], np.cumsum(self.pieces["length"], dtype=np.int64)])
        return np.asarray(np.diff(ends[self.starts]))

    @cached_property
    def by_source(self) -> dict[str, Array]:
        """The rows of each source; a packed row counts as of its first document's."""
        owner = self.pieces["shard"][self.starts[:-1]]
        return {shard.source: np.flatnonzero(owner == at) for at, shard in enumerate(self.shards) if at in owner}

    def numbers(self, at: int) -> list[int]:
        """The numbers that the documents of a row have in their sources."""
        pieces = self.pieces[self.starts[at] : self.starts[at + 1]]
        return [int(self.shards[shard].numbers[row]) for shard, row in zip(pieces["shard"], pieces["row"])]

    def tokens(self, column: str) -> Array:
        """A column of all tokens, rows end to end; labels that are kept as a mask come as ids."""
        if column == "labels" and self.shards[0].masks:
            return np.where(self.tokens("trained"), self.tokens("input_ids"), IGNORED)
        stored = "labels" if column == "trained" else column
        shards = self.pieces["shard"]
        if not len(self.pieces):
            return np.empty(0, np.int64)
        # A stretch is what lies end to end in one shard; the whole of one is not copied.
        ends = self.pieces["begin"] + self.pieces["length"]
        breaks = np.flatnonzero((self.pieces["begin"][1:] != ends[:-1]) | (shards[1:] != shards[:-1])) + 1
        first, last = np.append(0, breaks), np.append(breaks - 1, len(ends) - 1)
        stretches = zip(shards[first].tolist(), self.pieces["begin"][first].tolist(), ends[last].tolist(), strict=True)
        found = [self.shards[s].per_token[stored][begin:end] for s, begin, end in stretches]
        values = found[0] if len(found) == 1 else np.concatenate(found)
        return values if column != "trained" or values.dtype == bool else values != IGNORED

    def _row(self, at: int) -> Columns:
        pieces = self.pieces[self.starts[at] : self.starts[at + 1]].tolist()
        shards = self.shards
        row: Columns = {
            name: np.concatenate([shards[s].per_token[name][b : b + n] for s, _, b, n in pieces], dtype=np.int64)
            for name in shards[pieces[0][0]].per_token
        }
        first = shards[pieces[0][0]]
        if first.masks:
            row["labels"] = np.where(row["labels"], row["input_ids"], IGNORED)
        if self.is_packed:
            return {**row, "seq_lengths": np.array([n for *_, n in pieces])}
        return {**row, **first.of_row(pieces[0][1])}


def ranges(begins: Array, counts: Array) -> Array:
    """The integers begin, begin + 1, … of each of several ranges, end to end."""
    total = int(counts.sum())
    return np.arange(total) + np.repeat(begins - (np.cumsum(counts) - counts), counts)


def _starts(counts: Array) -> Array:
    return np.concatenate([[0], np.cumsum(counts)])
