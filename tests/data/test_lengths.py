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


@pytest.fixture
def fit(tmp_path):
    def fit(overlong, *rows, max_length=6):
        with Writer(tmp_path) as writer:
            writer.append(part_of(range(10, 10 + len(rows)), rows, "ids"))
        shard, account = Shard(tmp_path), Account(read=len(rows))
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


def test_read_is_kept_and_dropped_whatever_becomes_of_long_rows(fit):
    rows = [row(prompt, answer) for prompt in (1, 5, 9) for answer in (1, 3, 8)]
    for overlong in ("drop", "truncate_prompt", "truncate_end"):
        found, account = fit(overlong, *rows)
        assert len(found) + sum(map(len, account.dropped.values())) == len(rows)
        assert all(len(tokens) <= 6 for tokens in ids(found))
        assert sum(label != IGNORED for _, labels in found for label in labels) == account.notes["trained tokens"]


@pytest.mark.parametrize("block", [1, 7, 50])
def test_trained_tokens_are_counted_by_row_whatever_the_blocks(monkeypatch, block):
    monkeypatch.setattr(shards, "BLOCK", block)
    random = np.random.default_rng(0)
    for _ in range(50):
        offsets = np.concatenate([[0], np.cumsum(random.integers(0, 6, random.integers(0, 20)))]).astype(np.int64)
        mask = random.random(offsets[-1]) < 0.5
        expected = [int(mask[begin:end].sum()) for begin, end in pairwise(offsets)]
        assert shards.count_by_row(mask, offsets).tolist() == expected
