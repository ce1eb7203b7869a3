"""Streams: as many rows as a run can use are read, and no more; what is made of them is the same as without."""

from dataclasses import replace

import pytest
from test_prepare import SFT, cache, config, data, llama, write  # noqa: F401

from finetune.config.data import PackingConfig, SourceConfig
from finetune.config.launch import LaunchConfig
from finetune.data import splits
from finetune.data.prepare import prepare
from finetune.data.sources import DataSource
from finetune.errors import UserError


def streamed(data, **trainer):  # noqa: F811
    made = config(SFT(), llama(), data, streaming=True)
    return replace(made, trainer=trainer)


def test_as_many_rows_are_read_as_the_steps_take(data):  # noqa: F811
    prepared = prepare(streamed(data, max_steps=3, per_device_train_batch_size=2))
    assert prepared.report["train"]["read"] == 7
    assert prepared.report["validation"]["read"] == 3


def test_the_global_batch_decides_where_it_is_written(data):  # noqa: F811
    made = replace(streamed(data, max_steps=2, per_device_train_batch_size=1), global_batch_size=3)
    assert prepare(made).report["train"]["read"] == 7


def test_as_many_rows_are_read_as_the_steps_of_all_processes_take(data):  # noqa: F811
    made = streamed(data, max_steps=2, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    together = replace(made, launch=LaunchConfig(method="torchrun", nproc_per_node=2))
    assert [prepare(each).report["train"]["read"] for each in (made, together)] == [5, 9]
    assert prepare(replace(together, global_batch_size=2)).report["train"]["read"] == 5


def test_rows_cut_from_a_stream_are_never_those_cut_from_the_whole_file(data):  # noqa: F811
    made = config(SFT(), llama(), data / "train.jsonl", limit=4, validation_size=2)
    whole, limited = prepare(made), prepare(replace(made, dataset=replace(made.dataset, streaming=True)))
    for split in ("train", "validation"):
        expected = [row["completion"] for row, _ in limited.kept(split)]
        assert [completion(limited, split, at) for at in range(len(expected))] == expected
        assert limited.rows(split).shards[0].folder != whole.rows(split).shards[0].folder


def test_rows_of_splits_that_nothing_cuts_are_tokenized_once(data):  # noqa: F811
    made = config(SFT(), llama(), data, limit=4)
    whole, limited = prepare(made), prepare(replace(made, dataset=replace(made.dataset, streaming=True)))
    assert limited.rows("train").shards[0].folder == whole.rows("train").shards[0].folder


def completion(prepared, split, at):
    """What the assistant says in a prepared row."""
    text = prepared.tokenizer.decode(prepared.rows(split)[at]["input_ids"])
    return text.rpartition("assistant\n")[2].partition("<|im_end|>")[0]


def test_streamed_rows_are_those_of_the_file(data):  # noqa: F811
    plain = prepare(config(SFT(), llama(), data, limit=5))
    limited = prepare(config(SFT(), llama(), data, limit=5, streaming=True))
    assert list(limited.rows("train")) == list(plain.rows("train"))


def test_a_validation_split_is_cut_from_the_rows_that_are_read(data):  # noqa: F811
    made = config(SFT(), llama(), data / "train.jsonl", limit=6, streaming=True, validation_size=2)
    prepared = prepare(made)
    assert {split: found["read"] for split, found in prepared.report.items()} == {"train": 6, "validation": 2}


def test_a_broken_line_far_behind_what_is_read_is_never_met(data):  # noqa: F811
    # The library reads ten megabytes at a time, and one such part ahead.
    filler = "x" * 1000
    rows = [f'{{"prompt": "one {at}", "completion": "two", "filler": "{filler}"}}\n' for at in range(25_000)]
    (data / "train.jsonl").write_text("".join(rows) + "{broken\n")
    assert prepare(streamed(data, max_steps=1, per_device_train_batch_size=4)).report["train"]["kept"] == 5


def test_a_changed_file_is_read_again(data):  # noqa: F811
    made = streamed(data, max_steps=1, per_device_train_batch_size=2)
    first = prepare(made)
    write(data / "train.jsonl", [{"prompt": "other", "completion": "words"}] * 9)
    second = prepare(made)
    assert second.folder != first.folder
    assert second.rows("train")[0] != first.rows("train")[0]


def test_files_that_change_places_are_read_as_they_are_named_now(data):  # noqa: F811
    made = config(SFT(), llama(), data, limit=3, streaming=True)
    files = {"train": "train.jsonl", "validation": "validation.jsonl"}
    swapped = {"train": "validation.jsonl", "validation": "train.jsonl"}
    before, after = (prepare(replace(made, dataset=replace(made.dataset, data_files=f))) for f in (files, swapped))
    assert list(before.rows("train")) == list(after.rows("validation"))
    assert list(before.rows("train")) != list(after.rows("train"))


def test_a_stream_that_nothing_identifies_is_refused(data):  # noqa: F811
    made = config(SFT(), llama(), data, limit=3, streaming=True).dataset
    with pytest.raises(UserError, match=r"does not say which commit.*dataset\.revision=COMMIT"):
        splits.load(DataSource("data", made, key=None), 0)


def test_a_stream_without_an_end_is_refused(data):  # noqa: F811
    with pytest.raises(
        UserError, match=r"streaming=true needs dataset\.limit, the rows to read, or trainer\.max_steps"
    ):
        prepare(streamed(data))
    packed = replace(streamed(data, max_steps=3), packing=PackingConfig(strategy="best_fit"))
    with pytest.raises(UserError, match="how many fill packed rows is not known"):
        prepare(packed)


def test_sources_of_a_mixture_are_streamed(data):  # noqa: F811
    made = streamed(data, max_steps=2, per_device_train_batch_size=2)
    sources = [SourceConfig(path=str(data), label=name) for name in ("a", "b")]
    dataset = replace(made.dataset, path=None, sources=sources)
    report = prepare(replace(made, dataset=dataset)).report["train"]
    assert {name: found["read"] for name, found in report["sources"].items()} == {"a": 5, "b": 5}
