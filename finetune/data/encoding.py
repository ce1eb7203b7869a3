"""Raw rows to the columns of a shard, batch by batch, with every row accounted for: read = kept + dropped.

Knows batches and processes. What a row means comes from the task, as an `Encoder`. Memory is bounded by a batch.
"""

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from finetune.config.task import IGNORED, NOTES, Account, Encoder, RowError
from finetune.data.lengths import NOTHING
from finetune.data.parts import Part, part_of
from finetune.data.shards import SEQUENCES, Array, Columns, Writer
from finetune.errors import UserError

# Rows that are in memory at once, as lists of numbers. Where they end decides nothing but that.
BATCH = 1000
# One process starts tokenizing at once, and its tokenizer has a thread for each core.
BATCHES_A_PROCESS = 32

Encoded = tuple[Part | None, Account]
Numbers = Sequence[int] | Array
"""What rows are called."""


def encode(
    rows: Dataset, encoder: Encoder, folder: Path, processes: int | None = None, numbers: Numbers | None = None
) -> Account:
    """Encode every row that can be read and has something to train into a shard in `folder`.

    Args:
        numbers: what the rows are called, in the shard and in messages: their numbers in the source. None counts them.
        processes: how many work at it; None decides by the number of rows and of cores. What is made is the same.
    Raises:
        UserError: whatever `read` and `tokenize` raise, with the number of the row.
    """
    account, called = Account(read=0), range(len(rows)) if numbers is None else numbers
    size = min(BATCH, encoder.at_once or BATCH)
    batches = [range(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
    mapped = _mapping(processes or _processes(len(batches)))
    with Writer(folder) as writer:
        for part, found in mapped(lambda batch: _part(_rows(rows, batch, called), encoder), batches):
            account.add(found)
            if part is not None:
                writer.append(part)
    return account


def _processes(batches: int) -> int:
    return max(1, min(len(os.sched_getaffinity(0)), batches // BATCHES_A_PROCESS))


def _mapping(processes: int) -> Callable[..., Iterator[Encoded]]:
    """A `map` in this process, or in forked ones: what a task closes over need not be pickled."""
    is_alone = processes == 1 or "fork" not in multiprocessing.get_all_start_methods()
    return map if is_alone else partial(_forking, processes)


def _forking(processes: int, work: Callable[[range], Encoded], batches: Sequence[range]) -> Iterator[Encoded]:
    global _work
    _work = work
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap(_forked, batches)


_work: Callable[[range], Encoded]


def _forked(batch: range) -> Encoded:
    return _work(batch)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A batch is many lists and no circles: to look for circles again and again takes a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_collection()
def _part(rows: list[tuple[int, dict[str, Any]]], encoder: Encoder) -> Encoded:
    """The arrays of rows with their numbers, and what became of each."""
    account = Account(read=len(rows))
    readable = list(_readable(rows, encoder, account))
    encoded = list(_tokenized(readable, encoder, account, cut=None))
    kept = list(_trainable(_shortened(encoded, encoder, account), encoder, account))
    if not kept:
        return None, account
    numbers, columns = zip(*kept, strict=True)
    return part_of(numbers, columns, encoder.labels, encoder.lists, encoder.column), account


def _rows(rows: Dataset, batch: range, called: Numbers) -> list[tuple[int, dict[str, Any]]]:
    columns = rows[batch.start : batch.stop]
    found = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return list(zip(map(int, called[batch.start : batch.stop]), found, strict=True))


def _readable(rows: list[tuple[int, dict[str, Any]]], encoder: Encoder, account: Account) -> Iterator[tuple[int, Any]]:
    for number, row in rows:
        try:
            yield number, encoder.read(row, number)
        except RowError as error:
            account.drop(str(error), number, error.file)


def _tokenized(
    rows: Sequence[tuple[int, Any]], encoder: Encoder, account: Account, cut: int | None
) -> Iterator[tuple[int, Any, Columns]]:
    """Number, row and model inputs: all rows at once, one at a time where that fails, to find the row at fault."""
    try:
        found = encoder.tokenize([item for _, item in rows], cut) if rows else []
    except (RowError, UserError):
        for number, item in rows:
            try:
                windows = _windows(encoder.tokenize([item], cut)[0])
            except RowError as error:
                account.drop(str(error), number, error.file)
            except UserError as error:
                raise UserError(f"row {number}: {error}") from None
            else:
                yield from ((number, item, columns) for columns in windows)
    else:
        for (number, item), one in zip(rows, found, strict=True):
            yield from ((number, item, columns) for columns in _windows(one))


def _windows(found: Columns | list[Columns]) -> list[Columns]:
    """What a row has become: itself, or the windows it is read through."""
    return found if isinstance(found, list) else [found]


def _shortened(
    rows: list[tuple[int, Any, Columns]], encoder: Encoder, account: Account
) -> Iterator[tuple[int, Columns]]:
    """The rows, those too long cut by the tokenizer where the task wants that: it puts special tokens back."""
    cut = encoder.cut
    long = [(at, item) for at, item, columns in rows if cut is not None and _longest(columns) > cut]
    shorter = {at: columns for at, _, columns in _tokenized(long, encoder, account, cut)}
    if shorter:
        account.note("truncated", len(shorter))
    left = {at for at, _ in long} - shorter.keys()  # dropped while they were cut
    yield from ((at, shorter.get(at, columns)) for at, _, columns in rows if at not in left)


def _longest(columns: Columns) -> int:
    """Tokens of a row, or of the longest of its sequences."""
    return max(columns.get(SEQUENCES, ()), default=len(columns["input_ids"]))


def _trainable(
    rows: Iterator[tuple[int, Columns]], encoder: Encoder, account: Account
) -> Iterator[tuple[int, Columns]]:
    for number, columns in rows:
        if encoder.labels != "row" and nothing_to_train(columns["labels"]):
            account.drop(NOTHING, number)
            continue
        for what in columns.pop(NOTES, ()):
            account.note(what)
        yield number, columns


def nothing_to_train(labels: Sequence[int]) -> bool:
    """Whether token labels ignore every token."""
    return all(label == IGNORED for label in labels)
