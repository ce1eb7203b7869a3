"""The stage: every row of every split accounted for, kept under a key of what decided it, within the budget."""

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tiny import CHATML, DEFAULT_SYSTEM, REWRITING, bert, bert_tokenizer, chat_tokenizer, llama

from finetune.config.data import DatasetConfig, MixtureConfig, PackingConfig, SourceConfig
from finetune.config.schema import (
    Config,
    EvaluationConfig,
    ModelConfig,
    PrecisionConfig,
    PublishConfig,
    TokenizerConfig,
    TrackingConfig,
)
from finetune.config.task import Encoder, RowError
from finetune.data import encoding, lengths, rendering, splits
from finetune.data.prepare import prepare
from finetune.data.shards import Shard
from finetune.errors import UserError
from finetune.evaluation import generation
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
    "which ends are trained": lambda tmp_path, data: {"task": SFT(eos="last")},
    "repeated rows": lambda tmp_path, data: {"deduplicate": "exact"},
    "another option of the task": lambda tmp_path, data: {"task": SFT(overlong="truncate_end")},
    "the packing": lambda tmp_path, data: {"packing": PackingConfig(strategy="sequential")},
    "the columns": lambda tmp_path, data: {"columns": {"prompt": "completion", "completion": "prompt"}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_input_that_changes_gets_another_folder(data, tmp_path, change):
    first = folder(SFT(), llama(), data)
    changed = {"task": SFT(), **change(tmp_path, data)}
    assert folder(changed.pop("task"), llama(), data, **changed) != first


@pytest.mark.parametrize("file", ["additional_chat_templates/tool_use.jinja", "source.spm", "bpe.codes", "vocab.json"])
def test_each_file_of_a_tokenizer_that_changes_gets_another_folder(data, tmp_path, file):
    own = tmp_path / "own"
    shutil.copytree(llama(), own)
    made = config(SFT(), own, data)
    found = []
    for content in ("1", "2"):
        (own / file).parent.mkdir(exist_ok=True)
        (own / file).write_text(content)
        found.append(prepare(made).folder)
    assert found[0] != found[1]


DATED = "{%- if strftime_now is defined %}{{ strftime_now('%Y-%m-%d') }}{% endif %}" + CHATML


@pytest.fixture
def another_day(monkeypatch):
    """Lets a day pass."""
    tomorrow = date.today() + timedelta(days=1)

    class Tomorrow(date):
        @classmethod
        def today(cls):
            return tomorrow

    return lambda: monkeypatch.setattr(rendering, "date", Tomorrow)


def test_rows_of_a_template_that_writes_the_date_are_made_once_and_say_which_date_they_have(data, another_day):
    made = config(SFT(), llama(), data, TokenizerConfig(chat_template=DATED))
    note = f"rows with the date that the chat template writes, {date.today()}"
    first = prepare(made)
    another_day()
    again = prepare(made)
    assert again.folder == first.folder
    assert again.report["train"]["notes"][note] == again.report["train"]["kept"]


def test_rows_of_a_template_that_writes_no_date_say_nothing_of_it(data):
    assert not [note for note in prepare(config(SFT(), llama(), data)).report["train"]["notes"] if "date" in note]


@pytest.mark.parametrize("library", ["transformers", "tokenizers", "jinja2"])
def test_another_version_of_a_library_that_makes_tokens_gets_other_rows(data, monkeypatch, library):
    first = prepare(config(SFT(), llama(), data))
    installed = rendering.version
    monkeypatch.setattr(rendering, "version", lambda name: "0" if name == library else installed(name))
    second = prepare(config(SFT(), llama(), data))
    assert second.folder != first.folder
    assert second.rows("train").shards[0].folder != first.rows("train").shards[0].folder


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


def fifty(tmp_path, at, row):
    """A file of fifty chats with another one at a place."""
    rows = [{"messages": chat(f"one {number}")} for number in range(50)]
    rows[at] = row
    write(tmp_path / "fifty.jsonl", rows)
    return tmp_path / "fifty.jsonl"


def chat(text, turns=1, **more):
    pair = [{"role": "user", "content": text}, {"role": "assistant", "content": "two three four", **more}]
    return pair * turns


FAULTY = {
    "of a weight": ({"messages": chat("one", weight=-1)}, {"task": SFT(mask="per_turn")}),
    "of a rendering": ({"messages": chat("one", 2)}, {"tokenizer": TokenizerConfig(chat_template=REWRITING)}),
    "of a length": ({"messages": chat("one " * 300)}, {"task": SFT(overlong="error")}),
}


@pytest.mark.parametrize(("row", "options"), FAULTY.values(), ids=FAULTY)
def test_an_error_in_a_split_that_was_cut_names_the_row_of_the_file(tmp_path, row, options):
    chosen = {"task": SFT(), **options}
    with pytest.raises(UserError, match=r"^(train|validation): row 30\b"):
        prepare(config(chosen.pop("task"), llama(), fifty(tmp_path, 30, row), **chosen, validation_size=5))


def test_dropped_rows_of_a_split_that_was_cut_are_those_of_the_file(tmp_path):
    empty = {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": ""}]}
    file = fifty(tmp_path, 30, empty)
    prepared = prepare(config(SFT(), llama(), file, validation_size=5, max_dropped=0.5))
    dropped = [entry["first"] for part in prepared.report.values() for entry in part["dropped"].values()]
    assert dropped == [[30]]
    lines = [json.loads(line)["messages"][0]["content"] for line in file.read_text().splitlines()]
    for split in ("train", "validation"):
        rows = prepared.rows(split)
        for at in range(len(rows)):
            (number,) = rows.numbers(at)
            assert f"user\n{lines[number]}<|im_end|>" in prepared.tokenizer.decode(rows[at]["input_ids"])


def test_a_file_that_is_at_fault_is_named_beside_the_row_of_the_source(tmp_path):
    rows = Dataset.from_dict({"text": ["a", "b", "c"]})

    def read(row, number):
        if number == 5:
            raise RowError("cannot be heard", "five.wav")
        return row["text"]

    def tokenize(texts, cut):
        return [{"input_ids": [1], "labels": [1]} for _ in texts]

    encoder = Encoder(read, tokenize, labels="ids", overlong="drop")
    account = encoding.encode(rows, encoder, tmp_path, numbers=np.array([7, 5, 9]))
    assert (account.dropped, account.files) == ({"cannot be heard": [5]}, {"5": "five.wav"})
    assert Shard(tmp_path).numbers.tolist() == [7, 9]


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


def own_head(tmp_path, names):
    """The tiny classifier as somebody fine-tuned it, its labels named in this order."""
    # Beside the folder of the data, in which every JSON file is data.
    target = tmp_path.with_name(f"{tmp_path.name}-{'-'.join(names)}")
    shutil.copytree(bert(), target)
    settings = json.loads((target / "config.json").read_text())
    settings["id2label"] = {str(at): name for at, name in enumerate(names)}
    settings["label2id"] = {name: at for at, name in enumerate(names)}
    (target / "config.json").write_text(json.dumps(settings))
    return target


@pytest.mark.parametrize("order", [("yes", "no"), ("no", "yes"), ("YES", "No")])
def test_labels_follow_the_head_that_a_model_brings_by_name(tmp_path, order):
    write(tmp_path / "train.jsonl", [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}])
    write(tmp_path / "validation.jsonl", [{"text": "good", "label": "yes"}])
    prepared = prepare(config(SequenceClassification(), own_head(tmp_path, order), tmp_path))
    names = [name.lower() for name in order]
    assert prepared.facts["labels"] == names
    assert prepared.model_config.id2label == dict(enumerate(names))
    assert [names[at] for at in prepared.rows("train")["labels"]] == ["yes", "no"]


def test_the_order_of_rows_and_of_a_splits_own_names_changes_no_label(tmp_path):
    parts = {}
    for split, names in {"train": ["no", "yes"], "validation": ["yes", "no"]}.items():
        said = {"text": ["good", "bad"], "label": [names.index("yes"), names.index("no")]}
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        parts[split] = Dataset.from_dict(said, features=features)
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    prepared = prepare(config(SequenceClassification(), bert(), tmp_path / "saved"))
    for split in parts:
        assert [prepared.facts["labels"][at] for at in prepared.rows(split)["labels"]] == ["yes", "no"]


def test_a_head_for_more_labels_than_the_data_has_keeps_them(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}])
    write(tmp_path / "validation.jsonl", [{"text": "good", "label": "yes"}])
    prepared = prepare(config(SequenceClassification(), own_head(tmp_path, ("maybe", "yes", "no")), tmp_path))
    assert prepared.facts["labels"] == ["maybe", "yes", "no"]
    assert prepared.rows("train")["labels"][:] == [1, 2]


def test_a_head_for_other_labels_is_refused_unless_it_is_written_which_is_which(tmp_path):
    (tmp_path / "rows").mkdir()
    write(tmp_path / "rows" / "train.jsonl", [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}])
    write(tmp_path / "rows" / "validation.jsonl", [{"text": "good", "label": "yes"}])
    made = config(SequenceClassification(), own_head(tmp_path, ("positive", "negative")), tmp_path / "rows")
    with pytest.raises(UserError, match=r"a head for the labels positive, negative, and the data has no, yes"):
        prepare(made)
    named = replace(made, model=replace(made.model, config={"id2label": {0: "yes", 1: "no"}}))
    assert prepare(named).facts["labels"] == ["yes", "no"]


def test_repeated_rows_are_reported_and_removed_on_request_outside_the_budget(data):
    spoil(data, "train", (1, rows(data / "train.jsonl")[0]), (2, rows(data / "validation.jsonl")[0]))
    prepared = prepare(config(SFT(), llama(), data))
    assert prepared.report["train"]["audit"]["duplicates"] == {"exact": 1, "near": 0, "evaluated": 1}
    assert prepared.report["train"]["kept"] == 10
    cleaned = prepare(config(SFT(), llama(), data, deduplicate="exact", decontaminate=True))
    assert cleaned.report["train"]["kept"] == 8
    assert {reason: entry["first"] for reason, entry in cleaned.report["train"]["dropped"].items()} == {
        "a copy of an earlier row": [1], "also evaluated on": [2],
    }  # fmt: skip
    assert cleaned.report["train"]["audit"]["duplicates"] == {"exact": 0, "near": 0, "evaluated": 0}


def test_what_a_template_leaves_out_is_counted_in_the_account(data):
    named = [{"role": "user", "content": "one", "name": "Ada"}, {"role": "assistant", "content": "two"}]
    write(data / "train.jsonl", [{"messages": named}] * 3)
    write(
        data / "validation.jsonl", [{"messages": [{k: v for k, v in turn.items() if k != "name"} for turn in named]}]
    )
    report = prepare(config(SFT(), llama(), data)).report
    assert report["train"]["notes"]["name of user not rendered"] == 3
    assert "name of user not rendered" not in report["validation"]["notes"]


def test_the_tokens_that_the_model_stops_at_are_known_with_those_of_the_template(data, tmp_path):
    shutil.copytree(llama(), tmp_path / "own")
    settings = json.loads((tmp_path / "own" / "generation_config.json").read_text()) | {"eos_token_id": [3, 5]}
    (tmp_path / "own" / "generation_config.json").write_text(json.dumps(settings))
    assert prepare(config(SFT(), tmp_path / "own", data)).facts["stops"] == [3, 5]
    assert "stops" not in prepare(config(SFT(eos="none"), tmp_path / "own", data)).facts


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


@pytest.fixture
def sources(data, tmp_path):
    """Ten rows of one layout and twenty of another, one of which cannot be read."""
    other = tmp_path / "other"
    other.mkdir()
    for name, count in {"train": 20, "validation": 2}.items():
        pairs = [[{"role": "user", "content": f"{at}"}, {"role": "assistant", "content": name}] for at in range(count)]
        write(other / f"{name}.jsonl", [{"messages": pair} for pair in pairs])
    spoil(other, "train", (7, {"messages": []}))

    def made(first=None, second=None, **dataset):
        written = [SourceConfig(path=str(data), label="pairs", **(first or {}))]
        written += [SourceConfig(path=str(other), **(second or {}))]
        dataset = DatasetConfig(sources=written, max_dropped=0.1, **dataset)
        return replace(config(SFT(), llama(), data), dataset=dataset)

    return made


def test_every_row_of_every_source_is_accounted_for(sources):
    prepared = prepare(sources())
    report = prepared.report["train"]
    assert (report["read"], report["kept"], report["rows"]) == (30, 29, 29)
    assert report["dropped"] == {"other: no messages": {"rows": 1, "first": [7]}}
    apart = {name: (found["read"], found["kept"], found["taken"]["rows"]) for name, found in report["sources"].items()}
    assert apart == {"pairs": (10, 10, 10), "other": (20, 19, 19)}
    assert {name: len(rows) for name, rows in prepared.rows("train").by_source.items()} == {"pairs": 10, "other": 19}
    assert len(prepared.rows("validation")) == 5


def test_what_is_taken_of_each_source_is_what_the_mixture_says(sources):
    report = prepare(sources({"weight": 1}, {"weight": 3})).report["train"]
    assert {name: found["taken"]["rows"] for name, found in report["sources"].items()} == {"pairs": 6, "other": 19}
    assert report["rows"] == 25


def test_the_tokens_of_an_epoch_are_those_of_its_rows_and_not_of_what_was_read(sources):
    for made in (sources({"weight": 1}, {"weight": 3}), sources({"epochs": 3}), sources({"samples": 2})):
        prepared = prepare(made)
        report = prepared.report["train"]
        assert report["tokens"] == prepared.rows("train").lengths.sum()
        assert report["tokens"] != report["notes"]["tokens"]


def test_another_mixture_tokenizes_nothing(sources):
    first = prepare(sources({"weight": 1}, {"weight": 3})).folder
    before = shards(first)
    for made in (sources({"weight": 3}, {"weight": 1}), sources({"epochs": 2}), sources(mixture=WARM), sources()):
        other = prepare(made).folder
        assert other != first
        assert shards(other) == before


WARM = MixtureConfig(temperature=2.0)


def test_a_source_of_which_too_much_is_dropped_is_named_though_the_whole_is_within_the_budget(sources):
    with pytest.raises(UserError, match=r"^train of other: 1 of 20 rows would be dropped"):
        prepare(replace(sources(), dataset=replace(sources().dataset, max_dropped=0.04)))


def test_an_error_in_a_source_names_it(sources, data):
    spoil(data, "train", (3, {"prompt": "one " * 300, "completion": "x"}))
    with pytest.raises(UserError, match=r"^train of pairs: row 3 has \d+ tokens"):
        prepare(replace(sources(), task=SFT(overlong="error")))


def test_two_sources_of_one_name_are_refused(sources):
    made = sources()
    twice = replace(made.dataset, sources=[made.dataset.sources[0]] * 2)
    with pytest.raises(UserError, match="pairs is there twice; name them apart with label"):
        prepare(replace(made, dataset=twice))


def test_a_path_beside_sources_is_refused(sources, data):
    made = sources()
    with pytest.raises(UserError, match=r"dataset\.path and dataset\.sources are both set"):
        prepare(replace(made, dataset=replace(made.dataset, path=str(data))))


def test_labels_of_several_sources_become_one_set(tmp_path):
    for name, labels in {"a": ["yes", "no"], "b": ["maybe", "no"]}.items():
        (tmp_path / name).mkdir()
        for split in ("train", "validation"):
            write(tmp_path / name / f"{split}.jsonl", [{"text": "good", "label": label} for label in labels])
    written = [SourceConfig(path=str(tmp_path / name)) for name in "ab"]
    made = replace(config(SequenceClassification(), bert(), "x"), dataset=DatasetConfig(sources=written))
    prepared = prepare(made)
    assert prepared.facts["labels"] == ["no", "yes", "maybe"]
    assert prepared.rows("validation")["labels"] == [1, 0, 2, 0]
    assert prepared.model_config.id2label == {0: "no", 1: "yes", 2: "maybe"}


def test_packed_rows_hold_every_document_once(data):
    prepared = prepare(config(SFT(), llama(), data, packing=PackingConfig(strategy="best_fit")))
    rows = prepared.rows("train")
    plain = prepare(config(SFT(), llama(), data)).rows("train")
    assert prepared.report["train"]["packed"] == {"documents": 10, "fill": sum(plain.lengths) / 256}
    (row,) = rows
    begins = [0, *itertools.accumulate(row["seq_lengths"])]
    documents = [row["input_ids"][begin:end] for begin, end in itertools.pairwise(begins)]
    assert sorted(documents) == sorted(plain["input_ids"])
    assert sorted(rows.numbers(0)) == list(range(10))


def test_rows_of_classes_are_not_packed(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": "good", "label": label} for label in ("yes", "no")] * 10)
    with pytest.raises(UserError, match="rows of this task have labels of their own"):
        prepare(config(SequenceClassification(), bert(), tmp_path, packing=PackingConfig(strategy="best_fit")))


def test_plain_text_is_wrapped_whole_and_chats_are_not(tmp_path, data):
    write(tmp_path / "train.jsonl", [{"text": "one two three " * (1 + at)} for at in range(60)])
    packing = PackingConfig(strategy="wrapped")
    prepared = prepare(config(SFT(), llama(), tmp_path / "train.jsonl", packing=packing))
    lengths = prepared.rows("train").lengths.tolist()
    assert lengths[:-1] == [256] * (len(lengths) - 1)
    assert sum(lengths) == prepared.report["train"]["notes"]["tokens"]
    with pytest.raises(UserError, match=r"packing=wrapped cuts documents anywhere"):
        prepare(config(SFT(), llama(), data, packing=packing))


def test_removed_rows_are_accounted_for_by_the_row_that_was_read(data):
    spoil(data, "train", (0, {"prompt": "x", "completion": ""}), (5, {"prompt": "one 4", "completion": "two train 4"}))
    spoil(data, "validation", (0, {"prompt": "one 7", "completion": "two train 7"}))
    made = config(SFT(), llama(), data, deduplicate="exact", decontaminate=True, max_dropped=0.1)
    prepared = prepare(made)
    assert prepared.report["train"]["dropped"] == {
        "a message of assistant has no content": {"rows": 1, "first": [0]},
        "a copy of an earlier row": {"rows": 1, "first": [5]},
        "also evaluated on": {"rows": 1, "first": [7]},
    }
    assert [prepared.rows("train").numbers(at)[0] for at in range(7)] == [1, 2, 3, 4, 6, 8, 9]
    assert prepared.report["train"]["audit"]["duplicates"] == {"exact": 0, "near": 0, "evaluated": 0}


def test_what_is_asked_of_a_model_are_the_rows_that_were_kept_of_every_source(tmp_path):
    """Sources have their own columns, and are asked in turn; a row that was dropped is not asked."""
    names, columns = ("one", "two"), ("prompt", "completion")
    for name in names:
        rows = [{f"{name}_prompt": "hello", f"{name}_completion": f"{name} {at}"} for at in range(4)]
        rows[2][f"{name}_completion"] *= 1 if name == "two" else 40
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train.jsonl", [row for row in rows if len(row[f"{name}_completion"]) < 9])
        write(tmp_path / name / "validation.jsonl", rows)
    sources = [
        SourceConfig(path=str(tmp_path / name), columns={role: f"{name}_{role}" for role in columns}) for name in names
    ]
    made = config(SFT(), llama(), data=None, tokenizer=TokenizerConfig(max_length=32), max_dropped=0.5)
    made = replace(made, dataset=replace(made.dataset, path=None, sources=sources))
    asked = [question["answer"] for question in generation.asked(made.task, prepare(made).kept("validation"))]
    assert asked == ["one 0", "two 0", "one 1", "two 1", "one 3", "two 2", "two 3"]
