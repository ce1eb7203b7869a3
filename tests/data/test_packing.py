"""Packing: full rows, every document once, the same every time; and what cannot be packed."""

from bisect import bisect_left, insort
from itertools import pairwise

import numpy as np
import pytest

from finetune.config.task import Encoder
from finetune.data import packing
from finetune.data.rows import PIECE
from finetune.errors import UserError


def drawn(kind, count=20_000, capacity=2048, seed=0):
    """Lengths as chats, short instructions, a mix of both and texts of any length have them."""
    random = np.random.default_rng(seed)
    found = {
        "chat": random.lognormal(5.9, 0.8, count),
        "instructions": random.lognormal(4.9, 0.75, count),
        "mixed": np.where(
            random.random(count) < 0.7, random.lognormal(5.3, 0.9, count), random.lognormal(7.2, 0.5, count)
        ),
        "any": random.uniform(1, capacity, count),
        "one length": np.full(count, 700),
        "half": np.full(count, capacity // 2 + 1),
        "full": np.full(count, capacity),
    }[kind]
    return np.clip(found, 1, capacity).astype(np.int64)


KINDS = ("chat", "instructions", "mixed", "any", "one length", "half", "full")


def rows_of(packed):
    return [packed.order[begin:end] for begin, end in pairwise(packed.starts)]


def sums(packed, lengths):
    return np.add.reduceat(lengths[packed.order], packed.starts[:-1])


def fill(packed, lengths, capacity=2048):
    return lengths.sum() / ((len(packed.starts) - 1) * capacity)


def exact_best_fit(lengths, capacity):
    """The rows that best-fit decreasing needs, one document at a time."""
    spaces, rows = [], 0
    for length in sorted(lengths.tolist(), reverse=True):
        at = bisect_left(spaces, length)
        if at == len(spaces):
            rows += 1
            insort(spaces, capacity - length)
        else:
            insort(spaces, spaces.pop(at) - length)
    return rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pack", ["best_fit", "sequential"])
def test_every_document_is_there_once_and_no_row_is_too_long(kind, pack):
    lengths = drawn(kind, count=5000)
    packed = packing.best_fit(lengths, 2048, 0) if pack == "best_fit" else packing.sequential(lengths, 2048)
    assert sorted(packed.order.tolist()) == list(range(5000))
    assert packed.starts[0] == 0
    assert packed.starts[-1] == 5000
    assert sums(packed, lengths).max() <= 2048


@pytest.mark.parametrize("kind", KINDS)
def test_best_fit_needs_no_more_rows_than_one_document_at_a_time(kind):
    lengths = drawn(kind, count=4000)
    assert len(packing.best_fit(lengths, 2048, 0).starts) - 1 <= exact_best_fit(lengths, 2048)


@pytest.mark.parametrize("kind", ["chat", "instructions", "mixed"])
def test_rows_of_chat_like_documents_are_full(kind):
    lengths = drawn(kind)
    assert fill(packing.best_fit(lengths, 2048, 0), lengths) >= 0.999


def test_best_fit_is_the_same_every_time_and_shuffles_its_rows_by_the_seed():
    lengths = drawn("chat", count=2000)
    first, again, other = (packing.best_fit(lengths, 2048, seed) for seed in (1, 1, 2))
    assert first.order.tolist() == again.order.tolist()
    assert first.starts.tolist() == again.starts.tolist()
    assert first.order.tolist() != other.order.tolist()
    assert {tuple(row) for row in rows_of(first)} == {tuple(row) for row in rows_of(other)}


def test_sequential_keeps_the_order_and_begins_a_row_where_the_next_does_not_fit():
    packed = packing.sequential(np.array([5, 5, 1, 10, 3, 3, 4]), 10)
    assert [row.tolist() for row in rows_of(packed)] == [[0, 1], [2], [3], [4, 5, 6]]


def pieces(*lengths):
    found = np.zeros(len(lengths), PIECE)
    found["row"], found["length"] = range(len(lengths)), lengths
    found["begin"] = np.cumsum(lengths) - lengths
    return found


def test_wrapped_fills_every_row_but_the_last_and_keeps_every_token():
    found, starts = packing.wrapped(pieces(5, 12, 4, 3), 10)
    assert [found["row"][a:b].tolist() for a, b in pairwise(starts)] == [[0, 1], [1, 2], [2, 3]]
    assert np.add.reduceat(found["length"], starts[:-1]).tolist() == [10, 10, 4]
    tokens = [at for begin, length in zip(found["begin"], found["length"]) for at in range(begin, begin + length)]
    assert tokens == list(range(24))


def test_wrapped_documents_that_end_with_a_row_leave_no_empty_piece():
    found, starts = packing.wrapped(pieces(10, 10, 5, 5), 10)
    assert found["length"].tolist() == [10, 10, 5, 5]
    assert starts.tolist() == [0, 1, 2, 4]


def test_one_document_is_one_row():
    for packed in (packing.best_fit(np.array([3]), 10, 0), packing.sequential(np.array([3]), 10)):
        assert (packed.order.tolist(), packed.starts.tolist()) == ([0], [0, 1])


class FakeShard:
    source = "chats"
    per_token = {"labels": np.array([True, False])}


def test_rows_with_labels_of_their_own_are_not_packed():
    with pytest.raises(UserError, match=r"packing=best_fit: rows of this task have labels of their own"):
        packing.check(FakeShard, Encoder(None, None, labels="row"), "best_fit")


def test_what_is_not_trained_whole_is_not_cut_anywhere():
    with pytest.raises(UserError, match=r"not every token of chats is\. Write packing=best_fit"):
        packing.check(FakeShard, Encoder(None, None, labels="ids"), "wrapped")
