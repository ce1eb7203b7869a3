"""The stage: every row of every split accounted for, kept under a key of what decided it, within the budget."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict
from tiny import CHATML, DEFAULT_SYSTEM, REWRITING, bert, bert_tokenizer, chat_tokenizer, llama

from finetune.config.schema import (
    Config,
    DatasetConfig,
    EvaluationConfig,
    ModelConfig,
    PackingConfig,
    PrecisionConfig,
    PublishConfig,
    TokenizerConfig,
    TrackingConfig,
)
from finetune.data import lengths, splits
from finetune.data.prepare import prepare
from finetune.errors import UserError
from finetune.models import tokenizer
from finetune.tasks.sequence_classification import SequenceClassification
from finetune.tasks.sft import SFT


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def config(task, model, data, tokenizer=None, packing=None, **dataset):
    return Config(
        task=task, model=ModelConfig(path=str(model)), dataset=DatasetConfig(path=str(data), **dataset),
        tokenizer=tokenizer or TokenizerConfig(), quantization={}, adapter={}, trainer={}, precision=PrecisionConfig(),
        evaluation=EvaluationConfig(), tracking=TrackingConfig(), publish=PublishConfig(),
        packing=packing or PackingConfig(),
    )  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """Ten chats to train on and three to validate on."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in {"train": 10, "validation": 3}.items():
        write(
            folder / f"{name}.jsonl",
            [{"prompt": f"one {at}", "completion": f"two {name} {at}"} for at in range(count)],
        )
    return folder


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def spoil(data, split, *changes):
    """Replace rows of a split: index and what it becomes."""
    changed = rows(data / f"{split}.jsonl")
    for index, row in changes:
        changed[index] = row
    write(data / f"{split}.jsonl", changed)


def folder(*arguments, **named):
    return prepare(config(*arguments, **named)).folder


def test_every_split_is_prepared_and_accounted_for(data):
    spoil(data, "train", (4, {"prompt": "one", "completion": ""}))
    prepared = prepare(config(SFT(), llama(), data, max_dropped=0.2))
    report = prepared.report["train"]
    assert (report["read"], report["kept"]) == (10, 9)
    assert report["dropped"] == {"a message of assistant has no content": {"rows": 1, "first": [4]}}
    assert report["from"] == f"{data} split train"
    assert report["notes"]["tokens"] == sum(len(ids) for ids in prepared.rows("train")["input_ids"])
    assert {split: len(prepared.rows(split)) for split in prepared.report} == {"train": 9, "validation": 3}
    assert prepared.max_length == 256


def test_a_second_time_finds_the_first(data):
    made = config(SFT(), llama(), data)
    first, second = prepare(made), prepare(made)
    assert first.folder == second.folder
    assert list(first.rows("train")) == list(second.rows("train"))
    assert len(list(first.folder.parent.iterdir())) == 1


def test_the_same_files_in_another_folder_find_the_first(data, tmp_path):
    first = folder(SFT(), llama(), data)
    shutil.copytree(data, tmp_path / "copy")
    assert folder(SFT(), llama(), tmp_path / "copy") == first


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1].split(',')
from test_prepare import SFT, config, files_of
from finetune.data.prepare import prepare
prepared = prepare(config(SFT(), sys.argv[2], sys.argv[3]))
print(prepared.folder.name, files_of(prepared.folder.parent.parent))
"""


def files_of(store):
    """The bytes of every file of a store, as one hash."""
    digest = hashlib.sha256()
    for file in sorted(
        file for kind in ("prepared", "shards") for file in (store / kind).rglob("*") if file.is_file()
    ):
        digest.update(str(file.relative_to(store)).encode() + file.read_bytes())
    return digest.hexdigest()


def test_another_process_with_an_empty_store_makes_the_same_bytes(data, tmp_path):
    found = folder(SFT(), llama(), data)
    copy = shutil.copytree(data, tmp_path / "copy")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "other"), "PYTHONHASHSEED": "7"}
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        ",".join(str(folder) for folder in Path(__file__).parents[:2]),
        str(llama()),
        str(copy),
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert output.split() == [found.name, files_of(found.parent.parent)]


def test_a_second_start_reads_no_row_and_no_tokenizer(data, monkeypatch):
    made = config(SFT(), llama(), data)
    first = prepare(made)
    monkeypatch.setattr(splits, "load", None)
    monkeypatch.setattr(tokenizer, "load", None)
    second = prepare(made)
    assert (second.folder, second.report, second.facts) == (first.folder, first.report, first.facts)


def shards(prepared):
    return {file: file.stat().st_mtime_ns for file in (prepared.parent.parent / "shards").rglob("*.bin")}


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": TokenizerConfig(max_length=100)},
        {"packing": PackingConfig(strategy="best_fit")},
        {"task": SFT(overlong="split")},
    ],
    ids=["length", "packing", "overlong"],
)
def test_another_length_or_packing_tokenizes_nothing(data, change):
    made = config(SFT(), llama(), data)
    first = prepare(made).folder
    before = shards(first)
    other = prepare(replace(made, **change)).folder
    assert other != first
    assert shards(other) == before


def test_rows_whose_shard_was_removed_are_made_again(data):
    made = config(SFT(), llama(), data)
    first = prepare(made)
    expected = list(first.rows("train"))
    for shard in (first.folder.parent.parent / "shards").iterdir():
        shutil.rmtree(shard)
    assert list(prepare(made).rows("train")) == expected


def test_a_build_that_is_killed_is_begun_again(data):
    made = config(SFT(), llama(), data)
    child = os.fork()
    if child == 0:
        lengths.fit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        prepare(made)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    prepared = prepare(made)
    assert len(prepared.rows("train")) == 10
    assert [len(row["input_ids"]) == len(row["labels"]) for row in prepared.rows("train")] == [True] * 10


def test_two_builders_at_once_make_one_folder(data):
    made = config(SFT(), llama(), data)
    children = [os.fork() or os._exit(len(list(prepare(made).rows("train"))) - 10) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    prepared = prepare(made).folder
    assert [path.name for path in prepared.parent.iterdir()] == [prepared.name]


def other_tokenizer(tmp_path):
    chat_tokenizer(eos="</s>").save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


CHANGES = {
    "a row": lambda tmp_path, data: spoil(data, "train", (0, {"prompt": "one 0", "completion": "other"})) or {},
    "a validation row": lambda tmp_path, data: (
        spoil(data, "validation", (0, {"prompt": "one 0", "completion": "other"})) or {}
    ),
    "the number of rows": lambda tmp_path, data: {"limit": 5},
    "the template": lambda tmp_path, data: {"tokenizer": TokenizerConfig(chat_template=DEFAULT_SYSTEM)},
    "the tokenizer": lambda tmp_path, data: {"tokenizer": TokenizerConfig(path=other_tokenizer(tmp_path))},
    "the pad token": lambda tmp_path, data: {"tokenizer": TokenizerConfig(pad_token="<|im_end|>")},
    "the length": lambda tmp_path, data: {"tokenizer": TokenizerConfig(max_length=100)},
    "the mask": lambda tmp_path, data: {"task": SFT(mask="all")},
    "another option of the task": lambda tmp_path, data: {"task": SFT(overlong="truncate_end")},
    "the packing": lambda tmp_path, data: {"packing": PackingConfig(strategy="sequential")},
    "the columns": lambda tmp_path, data: {"columns": {"prompt": "completion", "completion": "prompt"}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_input_that_changes_gets_another_folder(data, tmp_path, change):
    first = folder(SFT(), llama(), data)
    changed = {"task": SFT(), **change(tmp_path, data)}
    assert folder(changed.pop("task"), llama(), data, **changed) != first


def test_what_decides_no_row_changes_no_folder(data):
    made = config(SFT(), llama(), data)
    other = replace(made, name="other", trainer={"learning_rate": 1}, dataset=replace(made.dataset, max_dropped=0.5))
    assert prepare(made).folder == prepare(other).folder


def test_a_validation_cut_with_another_seed_gets_another_folder(data):
    made = config(SFT(), llama(), data / "train.jsonl")
    assert prepare(made).folder == prepare(made).folder
    assert prepare(made).folder != prepare(replace(made, seed=7)).folder


def test_more_dropped_rows_than_allowed_are_refused_with_split_reasons_and_rows(data):
    spoil(
        data, "validation", (1, {"prompt": "one", "completion": ""}), (2, {"prompt": "one " * 300, "completion": "x"})
    )
    expected = (
        "validation: 2 of 3 rows would be dropped, more than dataset.max_dropped=0.01 allows: "
        "1 × a message of assistant has no content (first: rows [1]); 1 × longer than 256 tokens (first: rows [2]). "
        "Mend the rows, or write dataset.max_dropped=…"
    )
    with pytest.raises(UserError) as refused:
        prepare(config(SFT(), llama(), data))
    assert str(refused.value) == expected


def test_rows_within_the_budget_are_dropped(data):
    spoil(data, "train", (3, {"prompt": "one", "completion": ""}))
    with pytest.raises(UserError, match=r"train: 1 of 10 rows would be dropped"):
        prepare(config(SFT(), llama(), data, max_dropped=0.09))
    assert prepare(config(SFT(), llama(), data, max_dropped=0.1)).report["train"]["kept"] == 9


def test_a_split_of_which_nothing_is_left_is_refused_whatever_is_allowed(data):
    spoil(data, "validation", *((at, {"prompt": "one", "completion": ""}) for at in range(3)))
    expected = (
        r"validation: no row of 3 is left: 3 × a message of assistant has no content \(first: rows \[0, 1, 2\]\)"
    )
    with pytest.raises(UserError, match=expected):
        prepare(config(SFT(), llama(), data, max_dropped=0.99))


def test_an_error_in_a_row_names_the_split_and_the_row(data):
    chat = [{"role": role, "content": "one two three"} for role in ("user", "assistant") * 2]
    chats = [{"messages": chat[:2]}] * 2 + [{"messages": chat}]
    write(data / "train.jsonl", chats[:2])
    write(data / "validation.jsonl", chats)
    with pytest.raises(
        UserError, match=r"^validation: row 2: the conversation up to an assistant turn is not a prefix"
    ):
        prepare(config(SFT(), llama(), data, TokenizerConfig(chat_template=REWRITING)))


def test_an_unknown_label_names_the_split_the_row_and_the_label(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}])
    write(tmp_path / "validation.jsonl", [{"text": "good", "label": "yes"}, {"text": "bad", "label": "nope"}])
    with pytest.raises(
        UserError, match=r"^validation: row 1: label 'nope' does not occur in train, which has no, yes"
    ):
        prepare(config(SequenceClassification(), bert(), tmp_path))


def test_a_split_without_the_columns_of_train_is_named(tmp_path):
    parts = {"train": {"text": ["good", "bad"], "label": ["a", "b"]}, "validation": {"text": ["good"], "lable": ["a"]}}
    saved = DatasetDict({name: Dataset.from_dict(columns) for name, columns in parts.items()})
    saved.save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"^validation: dataset\.columns\.label=label: .*Did you mean lable\?"):
        prepare(config(SequenceClassification(), bert(), tmp_path / "saved"))


def test_labels_come_from_train_and_are_kept_with_the_model(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}])
    write(tmp_path / "validation.jsonl", [{"text": "good", "label": "yes"}])
    prepared = prepare(config(SequenceClassification(), bert(), tmp_path))
    assert prepared.facts["labels"] == ["no", "yes"]
    assert prepared.model_config.id2label == {0: "no", 1: "yes"}
    assert prepared.rows("train")["labels"][:] == [1, 0]
    assert prepared.rows("train")["input_ids"][:] == bert_tokenizer()(["good", "bad"])["input_ids"]


def test_a_template_is_read_from_its_file(data, tmp_path):
    (tmp_path / "chat.jinja").write_text(CHATML)
    written = folder(SFT(), llama(), data, TokenizerConfig(chat_template=CHATML))
    assert folder(SFT(), llama(), data, TokenizerConfig(chat_template=str(tmp_path / "chat.jinja"))) == written


def test_a_template_that_is_nowhere_is_refused(data):
    with pytest.raises(UserError, match=r"tokenizer\.chat_template=chat\.jinja: there is no such file"):
        prepare(config(SFT(), llama(), data, TokenizerConfig(chat_template="chat.jinja")))


def test_a_pad_token_that_is_not_in_the_vocabulary_is_refused(data):
    with pytest.raises(UserError, match=r"tokenizer\.pad_token=<none> is not in the vocabulary"):
        prepare(config(SFT(), llama(), data, TokenizerConfig(pad_token="<none>")))


def test_a_length_beyond_the_models_positions_is_refused(data):
    with pytest.raises(UserError, match=r"tokenizer\.max_length=257 is more than the model's 256 positions"):
        prepare(config(SFT(), llama(), data, TokenizerConfig(max_length=257)))
