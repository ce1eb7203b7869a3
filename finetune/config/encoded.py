"""How raw rows are read and encoded, and an account of what becomes of each. Knows no task and no library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

IGNORED = -100
"""The label of a token that carries no loss: what torch's cross entropy leaves out."""
NOTES = "notes"
"""Beside the columns of an encoded row, what its account counts."""


class RowError(ValueError):
    """Raised while a row is read: the row is dropped, and counted under this reason."""

    def __init__(self, reason: str, file: str = "") -> None:
        super().__init__(reason)
        self.file = file
        """The file at fault, where the row names one."""


@dataclass
class Account:
    """What became of the rows of a split: read = kept + dropped."""

    read: int
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """Reason to the indices of the rows it dropped."""
    notes: dict[str, int] = field(default_factory=dict)
    """What is worth knowing of the rows that were kept, with counts: truncated rows, trained tokens."""
    files: dict[str, str] = field(default_factory=dict)
    """Of dropped rows whose file is at fault, the name of the file, by the number of the row."""

    @property
    def kept(self) -> int:
        """How many rows are left so far."""
        return self.read - sum(map(len, self.dropped.values()))

    def drop(self, reason: str, index: int, file: str = "") -> None:
        """Leave row `index` out."""
        self.dropped.setdefault(reason, []).append(index)
        if file:
            self.files[str(index)] = file

    def note(self, what: str, count: int = 1) -> None:
        """Count something about the rows that are kept."""
        self.notes[what] = self.notes.get(what, 0) + count

    def add(self, other: Account) -> None:
        """Take in what became of further rows."""
        self.read += other.read
        for reason, indices in other.dropped.items():
            self.dropped.setdefault(reason, []).extend(indices)
        for what, count in other.notes.items():
            self.note(what, count)
        self.files |= other.files


@dataclass(frozen=True)
class Media:
    """A prepared row that is no text."""

    words: str
    """What it is, where nothing can be seen or heard."""
    type: str
    """Of the content: image/png, audio/wav."""
    content: bytes = field(repr=False)
    """A file that a browser opens."""


@dataclass(frozen=True)
class Encoder:
    """How the raw rows of a split become model inputs."""

    read: Callable[[dict[str, Any], int], Any]
    """From a raw row and its number to what is tokenized; raises RowError to drop the row with a reason."""
    tokenize: Callable[[Sequence[Any], int | None], Sequence[dict[str, Any] | list[dict[str, Any]]]]
    """From read rows to model inputs, one mapping each; a maximum length cuts them, None leaves them whole.

    A list of mappings is one row that is read through several windows: it is kept or dropped as one.
    Raises for all where one row fails: a RowError drops that row, a UserError is about it and refuses the data.
    """
    labels: Literal["ids", "tokens", "row"] = "row"
    """What a label is: `ids`, the id of its token or -100; `tokens`, a number a token; `row`, of the whole row."""
    lists: tuple[str, ...] = ()
    """Columns that hold a list a row, which does not follow the tokens."""
    overlong: str = "error"
    """What becomes of a row of too many tokens: drop, error, or, for `ids`, truncate_prompt, truncate_end, split;
    whole, where the encoder has cut what is too long itself."""
    cut: int | None = None
    """Tokens at which the tokenizer itself cuts, for rows that a slice would spoil; the rest is left whole."""
    column: str = "input_ids"
    """The column whose length is that of a row."""
    at_once: int | None = None
    """Rows that are read together, where a thousand are too much for the memory."""


@dataclass(frozen=True)
class Brought:
    """What a model brings of its own that rows must agree with."""

    labels: tuple[str, ...] = ()
    """Names of the labels of its head, in the order of their ids; none where they were never named."""
    stops: tuple[int, ...] = ()
    """Tokens that its generation config stops at."""
    positions: int | None = None
    """Tokens it has positions for."""
    config: dict[str, Any] = field(default_factory=dict)
    """The values of its config, as stated."""
    generation: dict[str, Any] = field(default_factory=dict)
    """Those of its generation config, where it has one."""
