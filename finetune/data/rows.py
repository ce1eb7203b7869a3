"""Prepared rows as the Trainer takes them: an index of pieces over memory-mapped shards. Knows no file formats.

A row is one piece of a shard's row, or several documents packed one after another. Nothing is copied before a row is
asked for, so changing the mixture, the length or the packing writes a new index and no tokens.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np

from finetune.config.task import IGNORED
from finetune.data.shards import SEQUENCES, Array, Columns, Shard

PIECE = np.dtype([("shard", "<i4"), ("row", "<i4"), ("begin", "<i8"), ("length", "<i4")])
"""A stretch of tokens: of which shard and which of its rows, the position of its first token there, its length."""
KEPT = tuple(map(np.dtype, ("bool", "uint8", "int16", "float32")))
"""Kinds of numbers that rows keep: bytes, samples of sounds."""
Piece = tuple[int, int, int, int]
"""The same in Python."""


class Rows:
    """A map-style data set. `rows[3]` is a row as lists; loaders take arrays, through `__getitems__`."""

    def __init__(self, shards: Sequence[Shard], pieces: Array, starts: Array | None = None) -> None:
        self.shards, self.pieces = tuple(shards), pieces
        self.is_packed = starts is not None
        self.starts = np.arange(len(pieces) + 1) if starts is None else starts
        self.added: dict[str, Array] = {}
        """Columns with an entry a row that are kept elsewhere than in the shards."""

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
        return {name: value.tolist() for name, value in self.__getitems__([at % len(self)])[0].items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Columns]:
        """Rows as arrays, int64 where they are integers, as torch indexes with."""
        documents = [self.pieces[self.starts[at] : self.starts[at + 1]].tolist() for at in indices]
        joined = self._joined(list(chain.from_iterable(documents)))
        ends = [0, *accumulate(sum(length for *_, length in row) for row in documents)]
        rows = [{name: v[begin:end] for name, v in joined.items()} for begin, end in pairwise(ends)]
        own = [self._of_row(pieces) for pieces in documents]
        added = [{name: values[at] for name, values in self.added.items()} for at in indices]
        return [{**row, **more, **last} for row, more, last in zip(rows, own, added, strict=True)]

    def kept(self, shard: int) -> Array:
        """Which rows of the source of a shard are among these, in order."""
        own = self.pieces["row"][self.pieces["shard"] == shard]
        return np.unique(self.shards[shard].numbers[own])

    def with_columns(self, **columns: Array) -> "Rows":
        """The same rows with further columns, an entry a row."""
        rows = Rows(self.shards, self.pieces, self.starts if self.is_packed else None)
        rows.added = {**self.added, **columns}
        return rows

    def select(self, indices: Sequence[int]) -> "Rows":
        """Some of the rows, in this order."""
        chosen = np.asarray(indices, np.int64)
        begins, counts = self.starts[chosen], np.diff(self.starts)[chosen]
        pieces = self.pieces[ranges(begins, counts)]
        rows = Rows(self.shards, pieces, _starts(counts) if self.is_packed else None)
        rows.added = {name: values[chosen] for name, values in self.added.items()}
        return rows

    @cached_property
    def lengths(self) -> Array:
        """Tokens of each row."""
        ends = np.concatenate([[0], np.cumsum(self.pieces["length"], dtype=np.int64)])
        return np.asarray(np.diff(ends[self.starts]))

    @property
    def sequences(self) -> int:
        """The most sequences that a row holds, end to end."""
        offsets = [shard.lists[SEQUENCES][1] for shard in self.shards if SEQUENCES in shard.lists]
        return max((int(np.diff(each).max(initial=1)) for each in offsets), default=1)

    def list_lengths(self, name: str) -> Array:
        """How long the list is that each row has in a column of lists; rows are not packed."""
        lengths = np.zeros(len(self.pieces), np.int64)
        for at, shard in enumerate(self.shards):
            own = self.pieces["shard"] == at
            if own.any():
                lengths[own] = np.diff(shard.lists[name][1])[self.pieces["row"][own]]
        return lengths

    @cached_property
    def by_source(self) -> dict[str, Array]:
        """The rows of each source; a packed row counts as of its first document's."""
        owner = self.pieces["shard"][self.starts[:-1]]
        return {shard.source: np.flatnonzero(owner == at) for at, shard in enumerate(self.shards) if at in owner}

    @property
    def main(self) -> str:
        """The column whose length is that of a row."""
        return self.shards[0].main

    def beside(self, at: int) -> Columns:
        """What a row has besides its tokens."""
        return self._of_row(self.pieces[self.starts[at] : self.starts[at + 1]].tolist())

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

    def _joined(self, pieces: list[Piece]) -> Columns:
        """Each column of several pieces, end to end: one copy for a whole batch."""
        first = self.shards[pieces[0][0]]
        joined: Columns = {name: self._column(name, pieces) for name in first.per_token}
        if first.masks:
            joined["labels"] = np.where(joined["labels"], joined["input_ids"], IGNORED)
        return joined

    def _column(self, name: str, pieces: list[Piece]) -> Array:
        columns = [shard.per_token[name] for shard in self.shards]
        parts = [columns[shard][begin : begin + length] for shard, _, begin, length in pieces]
        return np.concatenate(parts, dtype=parts[0].dtype if parts[0].dtype in KEPT else np.int64)

    def _of_row(self, pieces: list[Piece]) -> Columns:
        """What a row has besides its tokens: the lengths of its documents, or columns of its own."""
        if self.is_packed:
            return {"seq_lengths": np.array([length for *_, length in pieces])}
        shard, row, *_ = pieces[0]
        return self.shards[shard].of_row(row)


def ranges(begins: Array, counts: Array) -> Array:
    """The integers begin, begin + 1, … of each of several ranges, end to end."""
    total = int(counts.sum())
    return np.arange(total) + np.repeat(begins - (np.cumsum(counts) - counts), counts)


def _starts(counts: Array) -> Array:
    return np.concatenate([[0], np.cumsum(counts)])
