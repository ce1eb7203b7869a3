"""Documents into rows of one length, decided on lengths alone: no document is lost, doubled or, unless asked, cut.

    best_fit     best-fit decreasing over all documents: the fullest rows, documents in any order
    sequential   documents in order, a new row where the next one does not fit
    wrapped      documents in order, cut where a row is full: for plain text that is trained whole

All are deterministic; best-fit shuffles its rows by a seed, which have much in common with their neighbours before.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from finetune.config.task import Encoder
from finetune.data.rows import PIECE, ranges
from finetune.data.shards import Array, Shard
from finetune.errors import UserError


@dataclass(frozen=True)
class Packed:
    """Which document comes where: indices of documents end to end, and where each row begins among them."""

    order: Array
    starts: Array


def best_fit(lengths: Array, capacity: int, seed: int) -> Packed:
    """Best-fit decreasing on the histogram of lengths; work follows the number of patterns, not of documents.

    Args:
        lengths: of each document, from 1 to `capacity`.
    """
    # 16 bits are sorted by radix, six times as fast as 64.
    by_length = np.argsort(lengths.astype(np.uint16) if capacity < 1 << 16 else lengths, kind="stable")
    counts = np.bincount(lengths, minlength=capacity + 1)
    blocks = list(_expanded(_fill(counts, capacity), by_length, np.cumsum(counts) - counts))
    sizes = np.concatenate([np.full(len(block), block.shape[1]) for block in blocks])
    flat, begins = np.concatenate([block.ravel() for block in blocks]), np.cumsum(sizes) - sizes
    rows = np.random.default_rng(seed).permutation(len(sizes))
    return Packed(flat[ranges(begins[rows], sizes[rows])], _starts(sizes[rows]))


def sequential(lengths: Array, capacity: int) -> Packed:
    """Documents in order; a row ends where the next document does not fit."""
    ends = np.cumsum(lengths)
    starts, filled = [0], 0
    while filled < (ends[-1] if len(ends) else 0):
        following = int(np.searchsorted(ends, filled + capacity, side="right"))
        starts.append(following)
        filled = int(ends[following - 1])
    return Packed(np.arange(len(lengths)), np.array(starts))


def wrapped(pieces: Array, capacity: int) -> tuple[Array, Array]:
    """Pieces in order, cut so that every row but the last is full, and where each row begins among them."""
    ends = np.cumsum(pieces["length"], dtype=np.int64)
    begins, total = ends - pieces["length"], int(ends[-1])
    edges = np.union1d(begins, np.arange(0, total, capacity))
    owner = np.searchsorted(ends, edges, side="right")
    found = pieces[owner]
    found["begin"] += edges - begins[owner]
    found["length"] = np.diff(edges, append=total)
    return found, np.append(np.searchsorted(edges, np.arange(0, total, capacity)), len(edges))


def pack(pieces: Array, packing: str, capacity: int, seed: int) -> tuple[Array, Array]:
    """The pieces in packed order, and where each row begins among them."""
    if packing == "wrapped":
        return wrapped(pieces, capacity)
    lengths = pieces["length"].astype(np.int64)
    found = best_fit(lengths, capacity, seed) if packing == "best_fit" else sequential(lengths, capacity)
    return np.asarray(pieces[found.order], PIECE), found.starts


def check(shard: Shard, encoder: Encoder, packing: str) -> None:
    """Refuse rows that cannot be packed.

    Raises:
        UserError: they have labels of their own, or would be cut where not every token is trained.
    """
    if encoder.labels != "ids" or encoder.lists:
        raise UserError(f"packing={packing}: rows of this task have labels of their own. Write packing=none")
    if packing == "wrapped" and not shard.per_token["labels"].all():
        raise UserError(
            f"packing=wrapped cuts documents anywhere, so it is for plain text that is trained whole; not every token "
            f"of {shard.source} is. Write packing=best_fit"
        )


def _starts(sizes: Array) -> Array:
    return np.concatenate([[0], np.cumsum(sizes)])


@dataclass(frozen=True)
class Pattern:
    """Rows that are filled alike: `count` documents of one length, after those of the pattern before."""

    before: "Pattern | None"
    length: int
    count: int


@dataclass
class Spaces:
    """Rows that are not full, by the space that is left in them: how many, and how they are filled so far."""

    sizes: list[int] = field(default_factory=list)
    rows: dict[int, list[tuple[int, Pattern]]] = field(default_factory=dict)

    def put(self, space: int, count: int, pattern: Pattern) -> None:
        """Add rows that have this space left."""
        if space not in self.rows:
            insort(self.sizes, space)
            self.rows[space] = []
        self.rows[space].append((count, pattern))

    def take(self, length: int) -> tuple[int, int, Pattern] | None:
        """The rows that the length fits best, out of here: their space, how many there are, their pattern."""
        at = bisect_left(self.sizes, length)
        if at == len(self.sizes):
            return None
        space = self.sizes[at]
        count, pattern = self.rows[space].pop()
        if not self.rows[space]:
            del self.rows[space], self.sizes[at]
        return space, count, pattern


def _fill(counts: Array, capacity: int) -> Spaces:
    """Every document in a row, the longest first, each where the least space is left."""
    spaces = Spaces()
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            space, rows, before = spaces.take(length) or (capacity, left, None)
            each = min(space // length, left)
            filled = min(rows, left // each)
            spaces.put(space - each * length, filled, Pattern(before, length, each))
            if before and rows > filled:
                spaces.put(space, rows - filled, before)
            left -= filled * each
    return spaces


def _expanded(spaces: Spaces, by_length: Array, begins: Array) -> Iterator[Array]:
    """The documents of each pattern's rows, (rows, documents a row)."""
    following = begins.copy()
    for size in spaces.sizes:
        for count, pattern in spaces.rows[size]:
            columns = []
            step: Pattern | None = pattern
            while step:
                taken = count * step.count
                at = following[step.length]
                columns.append(by_length[at : at + taken].reshape(count, step.count))
                following[step.length] += taken
                step = step.before
            yield np.concatenate(columns[::-1], axis=1)
