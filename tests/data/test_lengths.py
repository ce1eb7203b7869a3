"""Rows that are too long: dropped, cut or split on token ids, each counted, none with a false end."""

from itertools import pairwise

import numpy as np
import pytest

from finetune.config.task import IGNORED, Account
from finetune.data import lengths, shards
from finetune.data.lengths import Limit
from finetune.data.parts import part_of
from finetune.data.rows import Rows
from finetune.data.shards import Shard, Writer
from finetune.errors import UserError

END = 9


def row(prompt, answer):
    """Ones that ask, and twos that are trained with the end."""
    ids = [1] * prompt + [2] * (answer - 1) + [END]
    return {"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:]}


def shard_of(folder, rows):
    """Rows that are numbered from 10 on."""
    with Writer(folder) as writer:
        writer.append(part_of(range(10, 10 + len(rows)), rows, "ids"))
    return Shard(folder)


@pytest.fixture
def fit(tmp_path):
    def fit(overlong, *rows, max_length=6, account=None):
        shard, account = shard_of(tmp_path, rows), account or Account(read=len(rows))
        pieces = lengths.fit(shard, Limit(max_length, overlong), account)
        return [(found["input_ids"], found["labels"]) for found in Rows([shard], pieces)], account

    return fit


def ids(found):
    return [ids for ids, _ in found]


SHORT, LONG_PROMPT, LONG_ANSWER = row(2, 3), row(8, 3), row(3, 9)


def test_a_row_of_just_the_maximum_length_is_kept(fit):
    found, account = fit("error", row(3, 3))
    assert ids(found) == [[1, 1, 1, 2, 2, END]]
    assert account.notes == {"tokens": 6, "trained tokens": 3}


def test_drop_leaves_long_rows_out_by_their_number(fit):
    found, account = fit("drop", SHORT, LONG_PROMPT, LONG_ANSWER)
    assert ids(found) == [SHORT["input_ids"]]
    assert account.dropped == {"longer than 6 tokens": [11, 12]}
    assert account.notes == {"tokens": 5, "trained tokens": 3}


def test_error_names_the_row(fit):
    with pytest.raises(UserError, match=r"row 11 has 11 tokens, more than tokenizer\.max_length=6"):
        fit("error", SHORT, LONG_PROMPT)


def test_truncate_end_keeps_the_beginning_and_no_false_end(fit):
    found, account = fit("truncate_end", SHORT, LONG_PROMPT, LONG_ANSWER)
    assert ids(found) == [SHORT["input_ids"], [1, 1, 1, 2, 2, 2]]
    assert found[1][1] == [IGNORED] * 3 + [2, 2, 2]
    assert account.dropped == {"nothing to train": [11]}
    assert account.notes == {"truncated": 1, "tokens": 11, "trained tokens": 6}


def test_truncate_prompt_keeps_the_whole_answer_with_its_end(fit):
    found, account = fit("truncate_prompt", SHORT, LONG_PROMPT, LONG_ANSWER)
    assert ids(found) == [SHORT["input_ids"], [1, 1, 1, 2, 2, END]]
    assert account.dropped == {"longer than 6 tokens without its prompt": [12]}
    assert account.notes == {"truncated": 1, "tokens": 11, "trained tokens": 6}


def test_split_keeps_every_part_that_has_something_to_train(fit):
    found, account = fit("split", LONG_PROMPT, SHORT, LONG_ANSWER)
    assert ids(found) == [[1, 1, 2, 2, END], SHORT["input_ids"], [1, 1, 1, 2, 2, 2], [2, 2, 2, 2, 2, END]]
    assert account.dropped == {}
    assert account.notes == {"split": 2, "parts with nothing to train": 1, "tokens": 22, "trained tokens": 15}


def test_split_drops_a_row_of_which_no_part_has_anything_to_train(fit):
    asked, wide = {"input_ids": [1] * 12, "labels": [IGNORED] * 6 + [1] + [IGNORED] * 5}, row(3, 3)
    found, account = fit("split", asked, wide)
    assert ids(found) == [wide["input_ids"]]
    assert account.dropped == {"nothing to train": [10]}
    assert account.notes == {"tokens": 6, "trained tokens": 3}


POLICIES = ("drop", "truncate_prompt", "truncate_end", "split", "whole")
REASONS = ("nothing to train", "longer than 6 tokens", "longer than 6 tokens without its prompt")


def random_row(random):
    """Of any length, trained at any place but at one at least, as `encode` hands it on."""
    ids = random.integers(1, 9, random.integers(1, 30))
    is_trained = random.random(len(ids)) < random.choice([0.03, 0.5])
    is_trained[random.integers(len(ids))] = True
    return {"input_ids": ids.tolist(), "labels": np.where(is_trained, ids, IGNORED).tolist()}


@pytest.mark.parametrize("overlong", POLICIES)
def test_read_is_kept_and_dropped_whatever_becomes_of_long_rows_and_was_dropped_before(tmp_path, overlong):
    random = np.random.default_rng(0)
    for _ in range(20):
        rows = [random_row(random) for _ in range(random.integers(1, 12))]
        earlier = {reason: at for at, reason in enumerate(random.permutation(REASONS)[: random.integers(3)].tolist())}
        account = Account(len(rows) + len(earlier), {reason: [at] for reason, at in earlier.items()})
        shard = shard_of(tmp_path, rows)
        pieces = lengths.fit(shard, Limit(6, overlong), account)
        kept = shard.numbers[pieces["row"]].tolist()
        dropped = [number for at in account.dropped.values() for number in at]
        assert all(at in account.dropped[reason] for reason, at in earlier.items())
        assert len(set(kept)) + len(dropped) == len({*kept, *dropped}) == account.read
        assert overlong == "split" or len(set(kept)) == len(kept)
        assert overlong == "whole" or max(pieces["length"], default=0) <= 6
        labels = [label for found in Rows([shard], pieces) for label in found["labels"] if label != IGNORED]
        assert len(labels) == account.notes["trained tokens"]


def test_what_was_truncated_before_is_counted_with_what_is_truncated_here(fit):
    _, account = fit("truncate_end", LONG_ANSWER, account=Account(1, notes={"truncated": 2}))
    assert account.notes["truncated"] == 3


@pytest.mark.parametrize("block", [1, 7, 50])
def test_trained_tokens_are_counted_by_row_whatever_the_blocks(monkeypatch, block):
    monkeypatch.setattr(shards, "BLOCK", block)
    random = np.random.default_rng(0)
    for _ in range(50):
        offsets = np.concatenate([[0], np.cumsum(random.integers(0, 6, random.integers(0, 20)))]).astype(np.int64)
        mask = random.random(offsets[-1]) < 0.5
        expected = [int(mask[begin:end].sum()) for begin, end in pairwise(offsets)]
        assert shards.count_by_row(mask, offsets).tolist() == expected
