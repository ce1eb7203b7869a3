"""Rows of different lengths as one flat array with offsets. Knows no meaning of the values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.rows import Rows
from finetune.data.shards import count_by_row

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Ragged:
    """Row `n` is `values[offsets[n]:offsets[n + 1]]`."""

    values: Array
    offsets: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

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


def ragged(rows: Any, column: str) -> Ragged:
    """A column of the tokens of prepared rows, or a column of lists of any rows that are mappings."""
    if isinstance(rows, Rows):
        return Ragged(rows.tokens(column), np.concatenate([[0], np.cumsum(rows.lengths)]))
    return _gathered(np.asarray(row[column]) for row in rows)


def _gathered(rows: Iterable[Array]) -> Ragged:
    arrays = list(rows)
    offsets = np.cumsum([0, *map(len, arrays)])
    return Ragged(np.concatenate(arrays) if arrays else np.zeros(0, np.int64), offsets)
