"""Every row is accounted for: read = kept + dropped, and an error names its row."""

import pytest
from datasets import Dataset

from finetune.config.task import RowError
from finetune.data import encoding
from finetune.data.encoding import IGNORED, Limit
from finetune.errors import UserError


def read(row, index):
    if row["text"] is None:
        raise RowError("no text")
    return row["text"]


def tokenize(items, cut):
    """A token a letter; a `!` is a row that cannot be kept, a `?` one that refuses the data, a `-` is not trained."""
    for item in items:
        if "!" in item:
            raise RowError("it shouts")
        if "?" in item:
            raise UserError("it asks")
    rows = [[ord(letter) for letter in item][:cut] for item in items]
    return [{"input_ids": ids, "labels": [IGNORED if i == ord("-") else i for i in ids]} for ids in rows]


def encode(texts, overlong="drop", max_length=4):
    return encoding.encode(Dataset.from_dict({"text": texts}), read, tokenize, Limit(max_length, overlong))


def kept(encoded):
    return ["".join(map(chr, ids)) for ids in encoded.rows["input_ids"]] if len(encoded.rows) else []


def dropped(encoded):
    return sum(len(rows) for rows in encoded.account.dropped.values())


def test_rows_keep_their_order_and_are_counted():
    encoded = encode(["a", "bc", "def"])
    assert kept(encoded) == ["a", "bc", "def"]
    assert encoded.account.read == 3
    assert encoded.account.dropped == {}
    assert encoded.account.notes == {"tokens": 6}


def test_read_is_kept_and_dropped_with_each_reason_and_row():
    encoded = encode(["a", None, "b!", "abcde", "--", "c", None])
    assert kept(encoded) == ["a", "c"]
    assert encoded.account.dropped == {
        "no text": [1, 6],
        "it shouts": [2],
        "longer than 4 tokens": [3],
        "nothing to train": [4],
    }
    assert encoded.account.read == len(encoded.rows) + dropped(encoded)


def test_rows_are_counted_over_batches(monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 3)
    texts = ["a", None, "b!", "c", "abcde", "d", "e!", "f"]
    encoded = encode(texts)
    assert kept(encoded) == ["a", "c", "d", "f"]
    assert encoded.account.dropped == {"no text": [1], "it shouts": [2, 6], "longer than 4 tokens": [4]}
    assert encoded.account.read == len(encoded.rows) + dropped(encoded) == len(texts)


def test_a_row_of_just_the_maximum_length_is_kept():
    assert kept(encode(["abcd"])) == ["abcd"]


def test_a_truncated_row_keeps_its_beginning_and_is_counted():
    encoded = encode(["abcdef", "ab"], overlong="truncate")
    assert kept(encoded) == ["abcd", "ab"]
    assert encoded.account.notes == {"truncated": 1, "tokens": 6}


def test_a_row_that_truncation_leaves_nothing_to_train_is_dropped_and_not_counted_as_truncated():
    encoded = encode(["----ab", "ab"], overlong="truncate")
    assert kept(encoded) == ["ab"]
    assert encoded.account.dropped == {"nothing to train": [0]}
    assert "truncated" not in encoded.account.notes


def test_a_row_that_is_too_long_can_be_an_error_that_names_it():
    with pytest.raises(UserError, match=r"row 1 has 6 tokens, more than tokenizer\.max_length=4"):
        encode(["ab", "abcdef"], overlong="error")


def test_an_error_names_the_row_of_the_data_and_not_of_the_batch(monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 2)
    with pytest.raises(UserError, match="row 4: it asks"):
        encode([None, "a", "b", None, "c?"])


def test_every_row_can_be_dropped():
    encoded = encode([None, "!"])
    assert len(encoded.rows) == 0
    assert dropped(encoded) == 2


def test_a_label_that_is_no_list_of_tokens_is_always_trained():
    assert not encoding.nothing_to_train(0)
    assert not encoding.nothing_to_train([0.0, 0.0])
