"""Which rows a step sees is a matter of seed, epoch and step: not of ranks, and not of how often a run was stopped."""

import random

import numpy as np
import torch
from accelerate.data_loader import skip_first_batches

from finetune.training import order
from finetune.training.order import Batches, Loader, Sizes

CASES = [(random.Random(case).randrange(1, 200), random.Random(case + 1000).choice([4, 8, 16])) for case in range(200)]


def steps_of(rows: int, step: int, ranks: int, per_device: int, epoch: int = 0) -> list[list[int]]:
    """The rows of each step, over all ranks."""
    sizes = Sizes(rows, per_device, step // (ranks * per_device), ranks)
    micro = [list(order.parts(order.shuffled(rows, 3, epoch), sizes, rank)) for rank in range(ranks)]
    assert {len(each) for each in micro} == {sizes.micro_batches}
    assert all(0 < len(part) <= per_device for each in micro for part in each)
    found = []
    for start in range(0, sizes.micro_batches, sizes.accumulation):
        parts = [part for each in micro for part in each[start : start + sizes.accumulation]]
        found.append(sorted(int(at) for part in parts for at in part))
    return found


def test_the_rows_of_a_step_do_not_depend_on_the_number_of_ranks():
    for rows, step in CASES:
        alone = steps_of(rows, step, 1, 2)
        for ranks, per_device in ((2, 2), (4, 1), (2, 1), (1, step)):
            found = steps_of(rows, step, ranks, per_device)
            assert found[:-1] == alone[:-1]
            assert set(found[-1]) == set(alone[-1])
            # Every rank has a row in each of its micro-batches; what is left may be too few for it.
            twice = len(found[-1]) - len(alone[-1])
            assert 0 <= twice < ranks
            assert not twice or per_device == 1 or len(alone[-1]) < ranks


def test_every_row_is_seen_once_an_epoch_also_when_the_ranks_change_in_the_middle():
    for rows, step in CASES:
        before, after = steps_of(rows, step, 2, 2), steps_of(rows, step, 1, 4)
        middle = len(after) // 2
        seen = [at for each in [*before[:middle], *after[middle:]] for at in each]
        assert sorted(seen) == list(range(rows))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [order.shuffled(50, seed, epoch).tolist() for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert len({tuple(each) for each in orders}) == 3
    assert order.shuffled(50, 1, 1).tolist() == orders[1]


def test_by_length_keeps_every_row_and_puts_the_longest_first():
    lengths = [random.Random(at).randrange(1, 90) for at in range(130)]
    found = order.by_length(lengths, 2)(130, 1, 0)
    assert sorted(found.tolist()) == list(range(130))
    sizes = np.asarray(lengths)[found]
    assert all(sizes[:99] >= sizes[1:100])


class Read:
    """Rows that remember which of them were read."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: int) -> int:
        self.read.append(at)
        return at


def loader(rows: Read, collate, workers: int = 0) -> Loader:
    sizes = Sizes(len(rows), 2, 2)
    return Loader(rows, Batches(sizes, 5, 0, order.shuffled), collate, num_workers=workers)


def noisy(rows: list[int]) -> tuple[list[int], float]:
    """As a collator that masks at random."""
    return rows, float(torch.rand(1)) + random.random()


def test_a_position_is_skipped_to_without_reading_a_row():
    whole, rows = list(loader(Read(11), noisy)), Read(11)
    skipped = skip_first_batches(loader(rows, noisy), 3)
    assert list(skipped) == whole[3:]
    assert sorted(rows.read) == sorted(at for batch, _ in whole[3:] for at in batch)


def test_what_a_collator_draws_is_the_same_with_workers_and_leaves_the_generators_alone():
    alone = list(loader(Read(11), noisy))
    before = torch.get_rng_state()
    assert list(loader(Read(11), noisy, workers=2)) == alone
    assert torch.equal(before, torch.get_rng_state())
    assert len({draw for _, draw in alone}) == len(alone)


def test_another_epoch_draws_anew():
    made = loader(Read(11), noisy)
    first = list(made)
    made.set_epoch(1)
    assert [draw for _, draw in made] != [draw for _, draw in first]


def test_rows_that_fill_no_step_are_others_in_each_epoch():
    chosen = order.first(order.shuffled, 10)
    seen = {int(at) for epoch in range(20) for at in chosen(8, 0, epoch)}
    assert all(len(chosen(8, 0, epoch)) == 8 for epoch in range(20))
    assert seen == set(range(10))
