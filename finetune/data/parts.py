"""Encoded rows in memory, as flat arrays of numbers. Knows no file, no lengths and no mixture."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.config.task import IGNORED

Array = NDArray[Any]
Columns = dict[str, Any]
TOKENS = "input_ids"
TOKEN_DTYPES = {"token_type_ids": "int8", "attention_mask": "int8"}


@dataclass(frozen=True)
class Column:
    """How a column is stored: a value a token, a value a row, or a list a row."""

    per: str
    dtype: str


@dataclass(frozen=True)
class Part:
    """Consecutive rows in memory: the arrays of each column, and how long each row is."""

    columns: dict[str, Column]
    values: dict[str, Array]
    lengths: dict[str, Array]
    """Of the main column, and of each list that does not follow it."""
    main: str = TOKENS


def part_of(
    numbers: Sequence[int], rows: Sequence[Columns], labels: str, lists: Sequence[str] = (), main: str = TOKENS
) -> Part:
    """The arrays of encoded rows.

    Args:
        numbers: of the rows in their source.
        labels, lists, main: as an `Encoder` has them.
    """
    apart = {*lists, *(["labels"] if labels == "row" else [])}
    lengths = np.fromiter((len(row[main]) for row in rows), np.int64, len(rows))
    part = Part({}, {}, {main: lengths}, main)
    for name in rows[0]:
        _add(part, name, [row[name] for row in rows], follows=name not in apart)
    if labels == "ids":
        _mask(part)
    part.columns.update(row=Column("row", "int64"), first=Column("row", "int32"))
    part.values.update(row=np.array(numbers, np.int64), first=_first(part, labels))
    return part


def _add(part: Part, name: str, values: list[Any], follows: bool) -> None:
    """A column as numbers: of the tokens where it follows them, else of the rows."""
    if isinstance(values[0], np.ndarray | array):
        _add_arrays(part, name, values)
        return
    if not isinstance(values[0], list | tuple):
        found = np.asarray(values)
        # In the precision of a loss, which refuses what torch makes of Python's own floats in an array.
        dtype = "float32" if found.dtype.kind == "f" else "int64"
        part.columns[name], part.values[name] = Column("row", dtype), found.astype(dtype)
        return
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    total = int(lengths.sum())
    whole = follows or not any(isinstance(number, float) for number in chain.from_iterable(values))
    dtype = TOKEN_DTYPES.get(name, "int32") if whole else "float32"
    part.values[name] = np.fromiter(chain.from_iterable(values), dtype, total)
    part.columns[name] = Column("token" if follows else "list", dtype)
    if not follows:
        part.lengths[name] = lengths
    elif not np.array_equal(lengths, part.lengths[part.main]):
        raise ValueError(f"{name} has not one value for each token")


def _add_arrays(part: Part, name: str, values: list[Any]) -> None:
    """A column of the tokens that comes as arrays keeps their kind of number."""
    part.values[name] = np.concatenate(values)
    part.columns[name] = Column("token", str(part.values[name].dtype))
    if list(map(len, values)) != part.lengths[part.main].tolist():
        raise ValueError(f"{name} has not one value for each token")


def _mask(part: Part) -> None:
    """Labels as a byte each: the id of a label is its token's."""
    labels = part.values["labels"]
    trained = labels != IGNORED
    if (labels[trained] != part.values["input_ids"][trained]).any():
        raise ValueError("a label is neither the id of its token nor -100")
    part.columns["labels"], part.values["labels"] = Column("token", "bool"), trained


def _first(part: Part, labels: str) -> Array:
    """The first trained token of each row."""
    lengths = part.lengths[part.main]
    if labels == "row":
        return np.zeros(len(lengths), np.int32)
    values = part.values["labels"]
    trained = np.flatnonzero(values if labels == "ids" else values != IGNORED)
    begins = np.cumsum(lengths) - lengths
    return np.asarray(trained[np.searchsorted(trained, begins)] - begins, np.int32)
