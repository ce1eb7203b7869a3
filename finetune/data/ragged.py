"""Rows of different lengths as one flat array with offsets. Knows no meaning of the values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.parts import TOKENS
from finetune.data.rows import Rows
from finetune.data.shards import count_by_row

Array = npt.NDArray[Any]
BLOCK = 1 << 24
"""Tokens that are looked at together."""


@dataclass(frozen=True)
class Ragged:
    """Row `n` is `values[offsets[n]:offsets[n + 1]]`."""

    values: Array
    offsets: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """Values of all rows."""
        return len(self.values)

    def row(self, at: int) -> Array:
        """The values of a row."""
        found: Array = self.values[self.offsets[at] : self.offsets[at + 1]]
        return found

    def lengths(self) -> Array:
        """Values of each row."""
        return np.diff(self.offsets)

    def count(self, mask: Array) -> Array:
        """Where `mask` is true, by row; shape (rows,)."""
        return count_by_row(mask, self.offsets)


@dataclass(frozen=True)
class Blocks:
    """A column of the tokens of prepared rows, read in blocks: all of it may be more than memory holds."""

    rows: Any
    column: str

    @property
    def tokens(self) -> int:
        """Values of all rows."""
        return int(lengths_of(self.rows).sum())

    def blocks(self) -> Iterator[Ragged]:
        """One block after the other."""
        return (ragged(part, self.column) for part in parts(self.rows))

    def whole(self) -> Ragged:
        """All at once."""
        return ragged(self.rows, self.column)


def parts(rows: Any) -> Iterator[Any]:
    """The rows in stretches of about `BLOCK` tokens; rows that are no prepared ones are one stretch."""
    if not isinstance(rows, Rows):
        yield rows
        return
    ends = np.cumsum(rows.lengths)
    edges = np.searchsorted(ends, np.arange(BLOCK, int(ends[-1]) + BLOCK, BLOCK), side="right")
    for first, last in pairwise([0, *np.unique(np.append(edges, len(rows))).tolist()]):
        if last > first:
            yield rows.select(range(first, last))


def main_of(rows: Any) -> str:
    """The column whose length is that of a row."""
    return rows.main if isinstance(rows, Rows) else TOKENS


def lengths_of(rows: Any) -> Array:
    """Tokens of each row."""
    return rows.lengths if isinstance(rows, Rows) else np.array([len(row["input_ids"]) for row in rows])


def ragged(rows: Any, column: str) -> Ragged:
    """A column of the tokens of prepared rows, or a column of lists of any rows that are mappings."""
    if isinstance(rows, Rows):
        return Ragged(rows.tokens(column), np.concatenate([[0], np.cumsum(rows.lengths)]))
    return _gathered(np.asarray(row[column]) for row in rows)


def _gathered(rows: Iterable[Array]) -> Ragged:
    arrays = list(rows)
    offsets = np.cumsum([0, *map(len, arrays)])
    return Ragged(np.concatenate(arrays) if arrays else np.zeros(0, np.int64), offsets)
