"""Every row is accounted for, read = kept + dropped, an error names its row, and what is made is always the same."""

import pytest
from datasets import Dataset

from finetune.config.task import IGNORED, Account, Encoder, RowError
from finetune.data import encoding, lengths
from finetune.data.rows import Rows
from finetune.data.shards import Shard
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


ENCODER = Encoder(read, tokenize, labels="ids")


@pytest.fixture
def encode(tmp_path):
    def encode(texts, encoder=ENCODER, name="shard", **options):
        folder = tmp_path / name
        folder.mkdir()
        account = encoding.encode(Dataset.from_dict({"text": texts}), encoder, folder, **options)
        return Shard(folder), account

    return encode


def rows(shard):
    pieces = encoding_pieces(shard)
    return Rows([shard], pieces)


def encoding_pieces(shard):
    return lengths.fit(shard, lengths.Limit(1000, "error"), Account(0))


def kept(shard):
    return ["".join(map(chr, row["input_ids"])) for row in rows(shard)]


def test_rows_keep_their_order_and_are_counted(encode):
    shard, account = encode(["a", "bc", "def"])
    assert kept(shard) == ["a", "bc", "def"]
    assert (account.read, account.dropped) == (3, {})


def test_read_is_kept_and_dropped_with_each_reason_and_row(encode):
    shard, account = encode(["a", None, "b!", "abcde", "--", "c", None])
    assert kept(shard) == ["a", "abcde", "c"]
    assert account.dropped == {"no text": [1, 6], "it shouts": [2], "nothing to train": [4]}
    assert account.read == shard.rows + sum(map(len, account.dropped.values()))
    assert shard.numbers.tolist() == [0, 3, 5]


@pytest.mark.parametrize("overlong", ["truncate_end", "truncate_prompt", "drop", "split"])
def test_rows_that_are_dropped_for_their_length_are_counted_with_those_dropped_before(encode, overlong):
    shard, account = encode(["a", "--", "----b", "c", None, "---b-----", "-----b----", "---"])
    pieces = lengths.fit(shard, lengths.Limit(3, overlong), account)
    dropped = [number for at in account.dropped.values() for number in at]
    assert {1, 4, 7} <= set(dropped)
    assert account.read == len(set(shard.numbers[pieces["row"]].tolist())) + len(dropped)


TEXTS = ["a", None, "b!", "c", "ab-de", "d", "e!", "f-", "--"] * 5


def test_rows_are_counted_over_batches(encode, monkeypatch):
    whole = encode(TEXTS, name="whole")
    monkeypatch.setattr(encoding, "BATCH", 3)
    shard, account = encode(TEXTS)
    assert account == whole[1]
    assert account.read == shard.rows + sum(map(len, account.dropped.values())) == len(TEXTS)
    assert list(rows(shard)) == list(rows(whole[0]))


def files(shard):
    return {file.name: file.read_bytes() for file in shard.folder.iterdir()}


def test_several_processes_write_the_bytes_that_one_writes(encode, monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 7)
    one, two = encode(TEXTS, name="one", processes=1), encode(TEXTS, name="two", processes=2)
    assert files(one[0]) == files(two[0])
    assert one[1] == two[1]


def test_an_error_in_another_process_names_the_row(encode, monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 2)
    with pytest.raises(UserError, match="row 4: it asks"):
        encode([None, "a", "b", None, "c?"], processes=2)


def test_a_token_takes_five_bytes_and_a_row_twenty(encode):
    shard, _ = encode(["abcde" * 100] * 50)
    size = sum(file.stat().st_size for file in shard.folder.glob("*.bin"))
    assert size == 5 * 500 * 50 + 20 * 50 + 8


def test_an_error_names_the_row_of_the_data_and_not_of_the_batch(encode, monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 2)
    with pytest.raises(UserError, match="row 4: it asks"):
        encode([None, "a", "b", None, "c?"])


def test_every_row_can_be_dropped(encode):
    shard, account = encode([None, "!"])
    assert shard.rows == len(rows(shard)) == 0
    assert sum(map(len, account.dropped.values())) == 2


def test_a_row_that_the_tokenizer_cuts_is_counted(encode):
    encoder = Encoder(read, tokenize, labels="ids", cut=3)
    shard, account = encode(["abcdef", "ab", "---d"], encoder)
    assert kept(shard) == ["abc", "ab"]
    assert account.notes == {"truncated": 2}
    assert account.dropped == {"nothing to train": [2]}


def test_a_label_that_is_not_its_token_is_refused(encode):
    encoder = Encoder(read, lambda items, _: [{"input_ids": [1, 2], "labels": [2, -100]}], labels="ids")
    with pytest.raises(ValueError, match="neither the id of its token nor -100"):
        encode(["a"], encoder)


def columns_of(labels, values):
    def tokenize(items, _):
        return [{"input_ids": [7] * int(item), "labels": value} for item, value in zip(items, values, strict=True)]

    return Encoder(read, tokenize, labels=labels)


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ("row", [1, 0]),
        ("row", [0.5, -2.0]),
        ("row", [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]),
        ("row", [[4], [1, 2, 3]]),
        ("tokens", [[3, -100], [1, 2, 0]]),
    ],
    ids=["class", "number", "several classes", "a sequence", "a class a token"],
)
def test_labels_of_every_kind_come_back_as_they_were(encode, labels, values):
    shard, _ = encode(["2", "3"], columns_of(labels, values))
    assert [row["labels"] for row in rows(shard)] == values


def test_a_column_of_tokens_of_another_length_is_refused(encode):
    with pytest.raises(ValueError, match="labels has not one value for each token"):
        encode(["2"], columns_of("tokens", [[1, 2, 3]]))
