"""Repeated rows are found exactly, near ones by the share of runs they have in common, and removed where asked."""

import random

import numpy as np
import pytest
from datasets import Dataset

from finetune.config.data import DatasetConfig
from finetune.data import duplicates
from finetune.data.ragged import Blocks, Ragged, ragged

NUMBERS = random.Random(3)
LONG = [NUMBERS.randrange(1000) for _ in range(80)]


def rows(*ids):
    return Dataset.from_dict({"input_ids": list(ids), "labels": list(ids)})


def ids(*lists):
    return Blocks(rows(*lists), "input_ids")


def whole(*lists):
    return ids(*lists).whole()


def changed(row, *places):
    return [token + 1000 if at in places else token for at, token in enumerate(row)]


def test_a_column_of_lists_is_one_array_with_offsets():
    for found in (
        whole([1, 2], [3], [4, 5, 6]),
        ragged([{"input_ids": each} for each in ([1, 2], [3], [4, 5, 6])], "input_ids"),
    ):
        assert found.values.tolist() == [1, 2, 3, 4, 5, 6]
        assert found.lengths().tolist() == [2, 1, 3]
        assert found.count(found.values > 2).tolist() == [0, 1, 3]


def test_copies_name_the_first_row_they_repeat():
    assert duplicates.copies(ids([1, 2], [3], [1, 2], [1, 2, 3], [1, 2])) == {2: 0, 4: 0}


def test_a_row_is_no_copy_of_one_that_only_begins_alike():
    assert duplicates.copies(ids([1, 2], [1, 2, 0], [0, 1, 2])) == {}


def test_a_row_with_one_token_changed_is_a_near_copy_and_one_with_many_is_not():
    found = duplicates.near_copies(whole(LONG, changed(LONG, 40), changed(LONG, *range(0, 80, 4)), LONG[::-1]))
    assert found == {1: 0}


def test_near_copies_agree_with_comparing_every_pair():
    numbers = random.Random(5)
    lists = [[numbers.randrange(50) for _ in range(numbers.randrange(6, 60))] for _ in range(60)]
    lists += [changed(each, numbers.randrange(len(each))) for each in lists for _ in range(2)]
    found = duplicates.near_copies(whole(*lists))
    sets = [{tuple(each[at : at + 5]) for at in range(len(each) - 4)} for each in lists]

    def share(one, other):
        return len(sets[one] & sets[other]) / len(sets[one] | sets[other])

    alike = {late for late in range(len(sets)) for early in range(late) if share(early, late) >= duplicates.ALIKE}
    assert found.keys() <= alike
    assert len(found) >= 0.9 * len(alike)
    assert len(alike) > 10


def test_rows_shorter_than_a_run_are_near_copies_of_nothing():
    assert duplicates.near_copies(whole([1, 2], [1, 2], [3])) == {}


def test_rows_that_are_evaluated_on_are_found():
    assert duplicates.overlap(ids([1], [2], [3]), [ids([3], [9]), ids([1])]) == [0, 2]


def unwanted(train, *others, **config):
    return duplicates.unwanted(rows(*train), [rows(*other) for other in others], DatasetConfig(path="x", **config))


def test_nothing_is_removed_unless_asked():
    assert unwanted([[1], [1]], [[1]]) == {}


def test_what_is_removed_is_named_with_the_reason():
    found = unwanted([[1], [2], [1]], [[2]], deduplicate="exact", decontaminate=True)
    assert found == {2: "a copy of an earlier row", 1: "also evaluated on"}


@pytest.mark.parametrize(("how", "gone"), [("exact", [1]), ("near", [1, 2])])
def test_near_removes_copies_and_near_copies(how, gone):
    assert sorted(unwanted([LONG, LONG, changed(LONG, 7)], [[1]], deduplicate=how)) == gone


def test_the_counts_tell_copies_from_near_copies():
    found = duplicates.count(ids(LONG, LONG, changed(LONG, 7), [5]), [ids([5])])
    assert found == {"exact": 1, "near": 1, "evaluated": 1}


def test_an_empty_array_has_no_rows():
    assert len(Ragged(np.zeros(0), np.zeros(1, np.int64))) == 0
