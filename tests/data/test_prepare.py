"""The stage: every row of every split accounted for, kept under a key of what decided it, within the budget."""

import json
import shutil
from dataclasses import replace

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tiny import CHATML, DEFAULT_SYSTEM, REWRITING, bert, bert_tokenizer, chat_tokenizer, llama

from finetune.config.schema import (
    Config,
    DatasetConfig,
    EvaluationConfig,
    ModelConfig,
    PrecisionConfig,
    PublishConfig,
    TokenizerConfig,
    TrackingConfig,
)
from finetune.data.prepare import prepare
from finetune.errors import UserError
from finetune.tasks.sequence_classification import SequenceClassification
from finetune.tasks.sft import SFT


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def config(task, model, data, tokenizer=None, **dataset):
    return Config(
        task=task, model=ModelConfig(path=str(model)), dataset=DatasetConfig(path=str(data), **dataset),
        tokenizer=tokenizer or TokenizerConfig(), quantization={}, adapter={}, trainer={}, precision=PrecisionConfig(),
        evaluation=EvaluationConfig(), tracking=TrackingConfig(), publish=PublishConfig(),
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


def test_the_same_rows_from_another_file_find_the_first(data, tmp_path):
    first = folder(SFT(), llama(), data)
    Dataset.from_json(str(data / "train.jsonl")).to_parquet(tmp_path / "train.parquet")
    Dataset.from_json(str(data / "validation.jsonl")).to_parquet(tmp_path / "validation.parquet")
    files = {"train": "train.parquet", "validation": "validation.parquet"}
    assert folder(SFT(), llama(), tmp_path, data_files=files) == first


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
    "another option of the task": lambda tmp_path, data: {"task": SFT(overlong="truncate")},
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
