"""What becomes of rows that are too long, decided on the lengths of a shard. Knows no tokenizer and no mixture.

drop              the row is left out
truncate_prompt   tokens before the first trained one are cut off the beginning; the end stays the row's own
truncate_end      the row ends early, with no end-of-turn token that was not there
split             the row becomes several, none longer than allowed
error             the data is refused
whole             it stays: the encoder has cut what is too long itself
"""

from dataclasses import dataclass

import numpy as np

from finetune.config.task import IGNORED, Account
from finetune.data.rows import PIECE
from finetune.data.shards import Array, Shard, count_by_row
from finetune.errors import UserError

UNLIMITED = 1 << 31
NOTHING = "nothing to train"


@dataclass(frozen=True)
class Limit:
    """How many tokens a row may have, and what becomes of a longer one."""

    max_length: int
    overlong: str
    unit: str = "tokens"
    """What a length counts."""

    @property
    def named(self) -> str:
        """The limit as a user knows it."""
        return f"tokenizer.max_length={self.max_length}" if self.unit == "tokens" else f"{self.max_length} allowed"


def fit(shard: Shard, limit: Limit, account: Account) -> Array:
    """A piece for each row that fits, in the order of the shard; `account` is told of the others.

    Raises:
        UserError: a row is too long and `limit.overlong` is `error`.
    """
    pieces = np.zeros(shard.rows, PIECE)
    pieces["row"], pieces["begin"], pieces["length"] = np.arange(shard.rows), shard.offsets[:-1], shard.lengths
    long = shard.longest > limit.max_length
    if long.any():
        pieces = _shortened(shard, pieces, long, limit, account)
    account.note("tokens", int(pieces["length"].sum()))
    if "labels" in shard.per_token:
        account.note("trained tokens", trained(shard, pieces))
    return pieces


def trained(shard: Shard, pieces: Array) -> int:
    """Trained tokens of all pieces: by row where a row is whole, else counted."""
    if not len(pieces):
        return 0
    labels = shard.per_token["labels"]
    of_rows = count_by_row(labels if shard.masks else labels != IGNORED, shard.offsets)
    whole = pieces["length"] == shard.lengths[pieces["row"]]
    cut = pieces[~whole]
    counted = sum(shard.trained(begin, begin + length) for begin, length in zip(cut["begin"], cut["length"]))
    return int(of_rows[pieces["row"][whole]].sum()) + counted


def _shortened(shard: Shard, pieces: Array, long: Array, limit: Limit, account: Account) -> Array:
    first = np.flatnonzero(long)[0]
    if limit.overlong == "whole":
        return pieces
    if limit.overlong == "error":
        raise UserError(f"row {shard.numbers[first]} has {shard.longest[first]} {limit.unit}, more than {limit.named}")
    if limit.overlong == "split":
        return _split(shard, pieces, long, limit, account)
    begins, fits = _window(shard, limit)
    lost = long & ~fits
    reason = f"longer than {limit.max_length} {limit.unit}" if limit.overlong == "drop" else NOTHING
    if limit.overlong == "truncate_prompt":
        reason = f"longer than {limit.max_length} tokens without its prompt"
    for number in shard.numbers[lost].tolist():
        account.drop(reason, number)
    cut = long & fits
    pieces["begin"][cut] += begins[cut]
    pieces["length"][cut] = limit.max_length
    if cut.any():
        account.note("truncated", int(cut.sum()))
    return pieces[~lost]


def _window(shard: Shard, limit: Limit) -> tuple[Array, Array]:
    """Where the kept tokens of each long row would begin, and whether enough of what is trained is among them."""
    if limit.overlong == "truncate_end":
        return np.zeros(shard.rows, np.int64), shard.first < limit.max_length
    if limit.overlong == "truncate_prompt":
        begins = shard.lengths - limit.max_length
        return begins, shard.first >= begins
    return np.zeros(shard.rows, np.int64), np.zeros(shard.rows, bool)


def _split(shard: Shard, pieces: Array, long: Array, limit: Limit, account: Account) -> Array:
    """Long rows in stretches of the maximum length, without those that have nothing to train, which are counted."""
    found = [pieces[~long]]
    for piece in pieces[long]:
        parts = _parts(piece, limit.max_length)
        # The first token of a part is predicted from nothing.
        kept = np.array([shard.trained(p["begin"] + 1, p["begin"] + p["length"]) > 0 for p in parts])
        if not kept.any():
            account.drop(NOTHING, int(shard.numbers[piece["row"]]))
            continue
        found.append(parts[kept])
        account.note("split")
        if not kept.all():
            account.note("parts with nothing to train", int((~kept).sum()))
    return np.sort(np.concatenate(found), order="begin")


def _parts(piece: Array, max_length: int) -> Array:
    """A row in stretches of the maximum length, the last one as long as what is left."""
    length = int(piece["length"])
    steps = np.arange(0, length, max_length)
    parts = np.repeat(piece, len(steps))
    parts["begin"] += steps
    parts["length"] = np.minimum(max_length, length - steps)
    return parts
