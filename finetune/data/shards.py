"""The tokenized rows of one split of one source, whole, as flat columns in a folder. Knows no lengths and no mixture.

    input_ids.bin   int32, the tokens of all rows end to end; or what else rows are made of, such as bytes of images
    offsets.bin     int64, where each row begins in them; one entry more than there are rows
    labels.bin      a byte a token, whether it is trained, where the label of a token is its own id; else numbers
    row.bin         int64, the number of each row in its source
    first.bin       int32, the first trained token of each row, counted from its beginning
    columns.json    what each column is, which one the length of a row is that of, and how many rows there are

A list of numbers that is no column of tokens has its own offsets beside it: NAME.offsets.bin.
"""

import json
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from finetune.config.task import IGNORED
from finetune.data.parts import TOKENS, Column, Part
from finetune.data.parts import Array as Array
from finetune.data.parts import Columns as Columns

COLUMNS = "columns.json"
BLOCK = 1 << 22
"""Tokens that are summed at once."""
SEQUENCES = "seq_lengths"
"""A list a row: how long its sequences are, where it holds several, end to end."""


def count_by_row(mask: Array, offsets: Array) -> Array:
    """How many values between each two offsets are true; shape (rows,).

    In blocks: numpy makes a copy of eight bytes a token of all that it sums at once.
    """
    counts = np.zeros(len(offsets) - 1, np.int64)
    edges = np.searchsorted(offsets, np.append(np.arange(0, offsets[-1], BLOCK), offsets[-1]))
    for first, last in pairwise(np.unique(edges)):
        full = first + np.flatnonzero(np.diff(offsets[first : last + 1]))
        values = mask[offsets[first] : offsets[last]]
        counts[full] = np.add.reduceat(values, offsets[full] - offsets[first], dtype=np.int64)
    return counts


class Writer:
    """Appends parts to the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.columns: dict[str, Column] = {}
        self.rows = 0
        self.main = TOKENS
        self._files: dict[str, BinaryIO] = {}
        self._ends: dict[str, int] = {}
        self._open = ExitStack()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close the files; what was written is a shard from here on."""
        self._open.close()
        if kind is None:
            described = {name: asdict(column) for name, column in self.columns.items()}
            text = json.dumps({"rows": self.rows, "main": self.main, "columns": described}, indent=1)
            (self.folder / COLUMNS).write_text(text, encoding="utf-8")

    def append(self, part: Part) -> None:
        """Add the rows of a part; columns and their kinds are those of the first one."""
        self.columns, self.main = self.columns or part.columns, part.main
        if part.columns.keys() != self.columns.keys():
            raise ValueError(f"the columns {sorted(part.columns)} are not those before, {sorted(self.columns)}")
        for name, values in part.values.items():
            # Whole numbers may become floats; floats are never cut to whole numbers.
            self._write(name, values.astype(self.columns[name].dtype, casting="same_kind"))
        for name, lengths in part.lengths.items():
            self._extend("offsets" if name == part.main else f"{name}.offsets", lengths)
        self.rows += len(part.values["row"])

    def _extend(self, name: str, lengths: Array) -> None:
        """Lengths as offsets, which go on where the last part ended."""
        if name not in self._ends:
            self._write(name, np.zeros(1, np.int64))
        offsets = self._ends.get(name, 0) + np.cumsum(lengths)
        self._write(name, offsets)
        self._ends[name] = int(offsets[-1])

    def _write(self, name: str, values: Array) -> None:
        if name not in self._files:
            self._files[name] = self._open.enter_context((self.folder / f"{name}.bin").open("wb"))
        values.tofile(self._files[name])


class Shard:
    """A folder that a `Writer` filled, memory-mapped."""

    def __init__(self, folder: Path, source: str = "") -> None:
        found = json.loads((folder / COLUMNS).read_text(encoding="utf-8"))
        self.folder, self.source, self.rows = folder, source, int(found["rows"])
        self.columns = {name: Column(**column) for name, column in found["columns"].items()}
        self.main = str(found.get("main", TOKENS))
        self.per_token = {name: self._map(name, c.dtype) for name, c in self.columns.items() if c.per == "token"}
        self.masks = "labels" in self.per_token and self.columns["labels"].dtype == "bool"

    def _map(self, name: str, dtype: str) -> Array:
        file = self.folder / f"{name}.bin"
        if not file.is_file() or not file.stat().st_size:
            return np.empty(0, dtype)
        # As a plain array: slicing a memmap costs several times as much.
        return np.asarray(np.memmap(file, dtype, "r"))

    @cached_property
    def offsets(self) -> Array:
        """Where each row begins, and where the last one ends."""
        return self._map("offsets", "int64") if self.rows else np.zeros(1, np.int64)

    @cached_property
    def lengths(self) -> Array:
        """Tokens of each row."""
        return np.diff(self.offsets)

    @cached_property
    def longest(self) -> Array:
        """Tokens of the longest sequence of each row, where a row holds several."""
        if SEQUENCES not in self.lists or not self.rows:
            return self.lengths
        lengths, offsets = self.lists[SEQUENCES]
        return np.asarray(np.maximum.reduceat(lengths, offsets[:-1]))

    @cached_property
    def first(self) -> Array:
        """The first trained token of each row."""
        return self._map("first", "int32")

    @cached_property
    def numbers(self) -> Array:
        """The number of each row in its source."""
        return self._map("row", "int64")

    def trained(self, begin: int, end: int) -> int:
        """Tokens between two positions that are trained."""
        labels = self.per_token["labels"][begin:end]
        return int(np.count_nonzero(labels if self.masks else labels != IGNORED))

    @cached_property
    def per_row(self) -> dict[str, Array]:
        """Columns with a value a row, besides those that say where the row came from."""
        kept = (name for name, column in self.columns.items() if column.per == "row" and name not in ("row", "first"))
        return {name: self._map(name, self.columns[name].dtype) for name in kept}

    @cached_property
    def lists(self) -> dict[str, tuple[Array, Array]]:
        """Columns with a list a row: values and offsets."""
        names = (name for name, column in self.columns.items() if column.per == "list")
        return {n: (self._map(n, self.columns[n].dtype), self._map(f"{n}.offsets", "int64")) for n in names}

    def of_row(self, row: int) -> Columns:
        """The columns of a row that do not follow its tokens."""
        values: Columns = {name: column[row] for name, column in self.per_row.items()}
        for name, (column, offsets) in self.lists.items():
            values[name] = column[offsets[row] : offsets[row + 1]]
        return values
