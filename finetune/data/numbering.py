"""Rows are called by their numbers in the source, also where a split is some of its rows in another order.

The one place where numbers of a split become numbers of its source: what follows knows no others.
"""

import re
from dataclasses import replace
from pathlib import Path

from finetune.config.task import Account, Encoder
from finetune.data import encoding, shards
from finetune.data.shards import Array
from finetune.data.splits import Split
from finetune.errors import UserError


def encode(split: Split, encoder: Encoder, folder: Path) -> Account:
    """Encode a split into a shard, whose rows, account and errors have the numbers of the source.

    Raises:
        UserError: a row cannot be read or encoded.
    """
    if split.numbers is None:
        return encoding.encode(split.rows, encoder, folder)
    try:
        account = encoding.encode(split.rows, encoder, folder)
    except UserError as error:
        raise UserError(_renamed(str(error), split.numbers)) from None
    shards.renumber(folder, split.numbers)
    return _renumbered(account, split.numbers)


def _renamed(message: str, numbers: Array) -> str:
    """A message that begins with the row it is about, as all of them do."""
    return re.sub(r"\Arow (\d+)\b", lambda found: f"row {numbers[int(found[1])]}", message)


def _renumbered(account: Account, numbers: Array) -> Account:
    dropped = {reason: [int(numbers[row]) for row in rows] for reason, rows in account.dropped.items()}
    files = {str(numbers[int(row)]): file for row, file in account.files.items()}
    return replace(account, dropped=dropped, files=files)
