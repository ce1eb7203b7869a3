"""Rows that repeat others: copies, near copies, and training rows that are evaluated on as well.

Knows token ids. Near copies are found by MinHash with one permutation (https://arxiv.org/abs/1208.1259) over runs of
five tokens, and each pair is confirmed by the true share of runs that both have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from finetune.config.data import DatasetConfig
from finetune.data.parts import TOKENS
from finetune.data.ragged import Array, Blocks, Ragged, main_of
from finetune.errors import UserError

RUN, BINS, BAND = 5, 32, 4
SEARCHED = 5_000_000
"""Tokens in which near copies are looked for unasked: it takes some 100 bytes and 0.5 µs a token."""
ALIKE = 0.8
"""The share of runs, of all that either row has, from which on two rows are near copies."""
COPY, NEAR_COPY, EVALUATED = "a copy of an earlier row", "nearly a copy of an earlier row", "also evaluated on"
ASKED = (COPY, NEAR_COPY, EVALUATED)
"""Reasons that the recipe asked for: such rows count as removed, not against `dataset.max_dropped`."""


def unwanted(train: Any, others: Iterable[Any], config: DatasetConfig) -> dict[int, str]:
    """The training rows that the recipe wants out, each with the reason.

    Args:
        others: the splits that are evaluated on.
    Raises:
        UserError: near copies are wanted of rows that are no texts.
    """
    if config.deduplicate == "none" and not config.decontaminate:
        return {}
    main = main_of(train)
    if config.deduplicate == "near" and main != TOKENS:
        raise UserError("dataset.deduplicate=near compares texts. Write dataset.deduplicate=exact")
    ids = Blocks(train, main)
    found = dict.fromkeys(copies(ids), COPY) if config.deduplicate != "none" else {}
    if config.deduplicate == "near":
        found = dict.fromkeys(near_copies(ids.whole()), NEAR_COPY) | found
    if config.decontaminate:
        both = overlap(ids, [Blocks(part, main) for part in others if len(part)])
        found = dict.fromkeys(both, EVALUATED) | found
    return found


def copies(ids: Blocks) -> dict[int, int]:
    """Each row that repeats an earlier one, and the first such row."""
    first: dict[bytes, int] = {}
    found = {}
    for at, key in enumerate(_keys(ids)):
        if first.setdefault(key, at) != at:
            found[at] = first[key]
    return found


def overlap(ids: Blocks, others: Iterable[Blocks]) -> list[int]:
    """The rows that occur in others as well."""
    known = {key for other in others for key in _keys(other)}
    return [at for at, key in enumerate(_keys(ids)) if key in known]


def _keys(ids: Blocks) -> Iterator[bytes]:
    for block in ids.blocks():
        for start, end in pairwise(block.offsets.tolist()):
            values = block.values[start:end]
            # The same tokens may be stored in numbers of other sizes.
            data = values.astype(np.int64) if ids.column == TOKENS else values
            yield hashlib.blake2b(data.tobytes(), digest_size=16).digest()


def near_copies(ids: Ragged) -> dict[int, int]:
    """Each row that nearly repeats an earlier one, and that row."""
    hashes, owners = _runs(ids)
    signatures = _signatures(hashes, owners, len(ids))
    ends = np.searchsorted(owners, np.arange(len(ids) + 1))
    found: dict[int, int] = {}
    for start in range(0, BINS, BAND):
        for first, other in _alike(signatures[:, start : start + BAND]):
            if other not in found and _share(hashes, ends, first, other) >= ALIKE:
                found[other] = found.get(first, first)
    return found


def _runs(ids: Ragged) -> tuple[Array, Array]:
    """A hash of every run of tokens, and the row it is in; a row shorter than a run has none."""
    values = ids.values.astype(np.uint64)
    count = max(0, len(values) - RUN + 1)
    hashes = np.zeros(count, np.uint64)
    for step in range(RUN):
        # Odd constants of splitmix64, so that neighbouring ids land far apart.
        hashes = (hashes ^ values[step : step + count]) * np.uint64(0xBF58476D1CE4E5B9)
        hashes ^= hashes >> np.uint64(31)
    owners = np.repeat(np.arange(len(ids)), ids.lengths())
    inside = owners[:count] == owners[RUN - 1 :][:count]
    return hashes[inside], owners[:count][inside]


def _signatures(hashes: Array, owners: Array, rows: int) -> Array:
    """The smallest hash in each of the bins of a row; shape (rows, BINS). An empty bin borrows from the next one."""
    bins = (hashes >> np.uint64(59)).astype(np.int64)
    signatures = np.full(rows * BINS, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(signatures, owners * BINS + bins, hashes)
    table = signatures.reshape(rows, BINS)
    for _ in range(BINS):
        empty = table == np.iinfo(np.uint64).max
        if not empty.any():
            break
        table = np.where(empty, np.roll(table, -1, axis=1), table)
    return table


def _alike(band: Array) -> Iterator[tuple[int, int]]:
    """Pairs of rows that share a band: the first of them, and each later one. Rows without runs share nothing."""
    full = np.flatnonzero((band != np.iinfo(np.uint64).max).all(axis=1))
    if not len(full):
        return
    _, first, group = np.unique(band[full], axis=0, return_index=True, return_inverse=True)
    firsts = full[first[group.reshape(-1)]]
    for at in np.flatnonzero(firsts != full):
        yield int(firsts[at]), int(full[at])


def _share(hashes: Array, ends: Array, one: int, other: int) -> float:
    """The share of runs that both rows have, of those that either has (Jaccard)."""
    left, right = (set(hashes[ends[at] : ends[at + 1]].tolist()) for at in (one, other))
    return len(left & right) / max(1, len(left | right))


def count(ids: Blocks, others: Iterable[Blocks] = ()) -> dict[str, Any]:
    """How many rows repeat an earlier one, nearly repeat one (None: not looked for), or occur in others as well."""
    exact = copies(ids)
    near = len(near_copies(ids.whole()).keys() - exact.keys()) if _is_searched(ids) else None
    return {"exact": len(exact), "near": near, "evaluated": len(overlap(ids, others))}


def _is_searched(ids: Blocks) -> bool:
    """Near copies are looked for in texts, and in no more of them than takes a moment."""
    return ids.column == TOKENS and ids.tokens <= SEARCHED
