"""Raw rows to model inputs, in batches, with every row accounted for: read = kept + dropped.

Knows lengths and counts. What a row means comes from the task, as two functions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from finetune.config.task import Account, Encoded, RowError
from finetune.errors import UserError

BATCH = 1000
IGNORED = -100
NOTES = "notes"
"""Beside the columns of a row, what its account counts."""

Columns = dict[str, Any]
Read = Callable[[dict[str, Any], int], Any]
"""From a raw row and its index to what is tokenized; raises RowError to drop the row with a reason."""
Tokenize = Callable[[Sequence[Any], int | None], list[Columns]]
"""From read rows to model inputs, one mapping each; a maximum length cuts them, None leaves them whole.

Raises for all where one row fails: a RowError drops that row, a UserError is about it and refuses the data.
"""


@dataclass(frozen=True)
class Limit:
    """How many tokens a row may have, and what becomes of a longer one: drop, truncate or error."""

    max_length: int
    overlong: str


def encode(rows: Dataset, read: Read, tokenize: Tokenize, limit: Limit) -> Encoded:
    """Encode every row that can be read and fits.

    Raises:
        UserError: a row is too long and `limit.overlong` is `error`, or whatever `read` and `tokenize` raise.
    """
    account = Account(read=len(rows))
    kept: list[Columns] = []
    for indices, batch in _batches(rows):
        readable = list(_readable(indices, batch, read, account))
        for index, item, columns in _tokenized(readable, tokenize, account):
            if fitted := _fit(index, item, columns, tokenize, limit, account):
                for what in fitted.pop(NOTES, ()):
                    account.note(what)
                kept.append(fitted)
    account.note("tokens", sum(len(columns["input_ids"]) for columns in kept))
    return Encoded(Dataset.from_list(kept), account)


def _batches(rows: Dataset) -> Iterator[tuple[range, list[dict[str, Any]]]]:
    """Indices and rows, a thousand at a time."""
    for start in range(0, len(rows), BATCH):
        chunk = rows[start : start + BATCH]
        indices = range(start, min(start + BATCH, len(rows)))
        yield indices, [{name: values[at - start] for name, values in chunk.items()} for at in indices]


def _readable(indices: range, batch: list[dict[str, Any]], read: Read, account: Account) -> Iterator[tuple[int, Any]]:
    for index, row in zip(indices, batch, strict=True):
        try:
            yield index, read(row, index)
        except RowError as error:
            account.drop(str(error), index)


def _tokenized(
    rows: Sequence[tuple[int, Any]], tokenize: Tokenize, account: Account
) -> Iterator[tuple[int, Any, Columns]]:
    """Index, row and model inputs: all rows at once, one at a time where that fails, to find the row at fault."""
    try:
        found = tokenize([item for _, item in rows], None) if rows else []
    except (RowError, UserError):
        for index, item in rows:
            yield from _alone(index, item, tokenize, account)
    else:
        for (index, item), columns in zip(rows, found, strict=True):
            yield index, item, columns


def _alone(index: int, item: Any, tokenize: Tokenize, account: Account) -> Iterator[tuple[int, Any, Columns]]:
    try:
        yield index, item, tokenize([item], None)[0]
    except RowError as error:
        account.drop(str(error), index)
    except UserError as error:
        raise UserError(f"row {index}: {error}") from None


def _fit(
    index: int, item: Any, columns: Columns, tokenize: Tokenize, limit: Limit, account: Account
) -> Columns | None:
    """The row if it fits and has something to train; cut, dropped or refused otherwise."""
    length = len(columns["input_ids"])
    if length > limit.max_length:
        if limit.overlong == "error":
            raise UserError(f"row {index} has {length} tokens, more than tokenizer.max_length={limit.max_length}")
        if limit.overlong == "drop":
            account.drop(f"longer than {limit.max_length} tokens", index)
            return None
        columns = tokenize([item], limit.max_length)[0]
    if nothing_to_train(columns["labels"]):
        account.drop("nothing to train", index)
        return None
    if length > limit.max_length:
        account.note("truncated")
    return columns


def nothing_to_train(labels: Any) -> bool:
    """Whether token labels ignore every token."""
    return isinstance(labels, list) and all(label == IGNORED for label in labels)
