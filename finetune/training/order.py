"""Which rows a step sees, and in what order. A function of seed, epoch and step alone: whatever the number of ranks,
however often the run was stopped. Knows positions of rows, nothing of what is in them.

A step takes the next `global_batch` rows of the epoch's order. They are cut into as many parts as there are
micro-batches on all ranks: equal parts, but for the last step of an epoch, whose rows are spread as evenly as they go.
So every row is seen once an epoch; only where too few are left for every rank to have one, some are seen by two.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from finetune.training import generators

log = logging.getLogger(__name__)
WINDOW = 50
"""Steps whose rows are sorted by length together, as upstream does."""

Key = tuple[int, int]
"""Epoch and position of a row."""
Order = Callable[[int, int, int], np.ndarray]
"""From the number of rows, a seed and the epoch to positions."""


@dataclass(frozen=True)
class Sizes:
    """How steps are cut."""

    rows: int
    per_device: int
    accumulation: int
    ranks: int = 1

    @property
    def step(self) -> int:
        """Rows of a step."""
        return self.per_device * self.accumulation * self.ranks

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one rank in an epoch."""
        whole, rest = divmod(self.rows, self.step)
        return whole * self.accumulation + -(-rest // (self.per_device * self.ranks))


def shuffled(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch, as positions."""
    return np.random.default_rng([seed % 2**64, epoch]).permutation(rows)


def sequential(rows: int, _seed: int, _epoch: int) -> np.ndarray:
    """As the rows lie."""
    return np.arange(rows)


def first(base: Order, rows: int) -> Order:
    """The same order of all rows, of which an epoch takes as many as it has steps for: others in each."""
    return lambda taken, seed, epoch: base(rows, seed, epoch)[:taken]


def by_length(lengths: Sequence[int], step: int) -> Order:
    """Shuffled, then sorted by length within windows of steps, the longest first; little padding, still random."""
    sizes = np.asarray(lengths)

    def order(rows: int, seed: int, epoch: int) -> np.ndarray:
        mixed, window = shuffled(rows, seed, epoch), WINDOW * step
        parts = [mixed[at : at + window] for at in range(0, rows, window)]
        return np.concatenate([part[np.argsort(-sizes[part], kind="stable")] for part in parts])

    return order


def apart(base: Order, keys: Sequence[Sequence[int]], step: int) -> Order:
    """The same order, but no key stands twice in a step: a row that would repeat one waits for the next step.

    None is left out: rows that found no place are at the end, and how many they are is said.

    Args:
        keys: of each row.
    """

    def order(rows: int, seed: int, epoch: int) -> np.ndarray:
        found: list[int] = []
        waiting: list[int] = []
        coming = iter(base(rows, seed, epoch).tolist())
        while len(chosen := _without_repeats(waiting, coming, keys, step)) == step:
            found += chosen
        log.info("no text stands twice in a step, but for %d rows at the end of epoch %d", len(waiting), epoch)
        return np.array([*found, *chosen, *waiting])

    return order


def _without_repeats(waiting: list[int], coming: Iterator[int], keys: Sequence[Sequence[int]], step: int) -> list[int]:
    """The rows of a step: those that wait come first; of very many, not all are looked at."""
    looked_at, seen = deque(waiting[: WINDOW * step]), set[int]()
    chosen: list[int] = []
    late: list[int] = []
    while len(chosen) < step:
        row = looked_at.popleft() if looked_at else next(coming, None)
        if row is None:
            break
        if seen.isdisjoint(keys[row]):
            chosen.append(row)
            seen.update(keys[row])
        else:
            late.append(row)
    waiting[: WINDOW * step] = [*late, *looked_at]
    return chosen


def parts(order: np.ndarray, sizes: Sizes, rank: int) -> Iterator[np.ndarray]:
    """The micro-batches of one rank, as positions of rows."""
    for start in range(0, len(order), sizes.step):
        rows = order[start : start + sizes.step]
        count = -(-len(rows) // (sizes.per_device * sizes.ranks))
        cut = np.array_split(np.resize(rows, max(len(rows), count * sizes.ranks)), count * sizes.ranks)
        yield from cut[rank :: sizes.ranks]


class Batches(Sampler[list[Key]]):
    """The micro-batches of this rank in one epoch."""

    def __init__(self, sizes: Sizes, seed: int, rank: int, order: Order) -> None:
        self.sizes, self.seed, self.rank, self.order, self.epoch = sizes, seed, rank, order, 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch is next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.sizes.micro_batches

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.order(self.sizes.rows, self.seed, self.epoch)
        for part in parts(order, self.sizes, self.rank):
            yield [(self.epoch, int(at)) for at in part]


class Rows:
    """Rows with the key they were asked for, so that what is drawn while they are collated can depend on it."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> tuple[Key, Any]:
        return key, self.rows[key[1]]

    def __getitems__(self, keys: list[Key]) -> list[tuple[Key, Any]]:
        """A batch at once, where the rows can."""
        positions = [at for _, at in keys]
        many = getattr(self.rows, "__getitems__", None)
        return list(zip(keys, many(positions) if many else (self.rows[at] for at in positions)))


class Collate:
    """The task's collator. What it draws, such as masks, depends on seed, epoch and rows, not on what came before."""

    def __init__(self, collate: Callable[[list[Any]], Any], seed: int) -> None:
        self.collate, self.seed = collate, seed

    def __call__(self, items: list[tuple[Key, Any]]) -> Any:
        """One batch."""
        with generators.borrowed(generators.mixed(self.seed, *items[0][0])):
            return self.collate([row for _, row in items])


class Loader(DataLoader):
    """Batches in order; skipping to a position reads no row."""

    def __init__(self, rows: Any, batches: Batches, collate: Callable[[list[Any]], Any], **options: Any) -> None:
        # A generator of its own: the seeds of worker processes are drawn from the model's otherwise.
        super().__init__(
            Rows(rows),  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=Collate(collate, batches.seed),
            generator=torch.Generator().manual_seed(batches.seed % 2**63),
            **options,
        )

    def set_epoch(self, epoch: int) -> None:
        """Which epoch is next; the trainer tells."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
