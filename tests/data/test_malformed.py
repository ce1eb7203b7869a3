"""Input that is wrong, of every kind: one message that says where and what, exit code 2, no row lost in silence."""

import json
import re

import datasets
import pytest
from tiny import bert, llama

from finetune.config.data import DatasetConfig
from finetune.config.schema import (
    Config,
    EvaluationConfig,
    ModelConfig,
    PrecisionConfig,
    PublishConfig,
    TokenizerConfig,
    TrackingConfig,
)
from finetune.data.prepare import prepare
from finetune.errors import USER, UserError
from finetune.tasks.sequence_classification import SequenceClassification
from finetune.tasks.sft import SFT, Boundaries

ASKED, ANSWERED = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hallo"}
CHAT = {"messages": [ASKED, ANSWERED]}
LABEL = {"text": "good film", "label": "yes"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def written(folder, name, content):
    """A file of rows, or of the bytes given."""
    if not isinstance(content, bytes):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content).encode()
    (folder / name).write_bytes(content)


def refused(tmp_path, task, model, train, validation, name="train.jsonl", **dataset):
    """The message for these files."""
    data = tmp_path / "data"
    data.mkdir()
    written(data, name, train)
    other = name.replace("train", "validation")
    written(data, other, validation)
    files = {"train": name, "validation": other}
    config = Config(
        task=task, model=ModelConfig(path=str(model)), tokenizer=TokenizerConfig(), quantization={}, adapter={},
        dataset=DatasetConfig(**{"path": str(data), "data_files": files, **dataset}), trainer={},
        precision=PrecisionConfig(), evaluation=EvaluationConfig(), tracking=TrackingConfig(), publish=PublishConfig(),
    )  # fmt: skip
    with pytest.raises(UserError) as error:
        prepare(config)
    assert error.value.exit_code == USER
    return str(error.value)


def chat(*turns, **more):
    return {"messages": list(turns), **more}


def spoken(**message):
    return chat(ASKED, {"role": "assistant", **message})


def call(arguments):
    return [{"type": "function", "function": {"name": "add", "arguments": arguments}}]


# A row at index 1 of three, and what is said of it.
ROWS = {
    "an unknown role": (chat({"role": "usr", "content": "x"}), r"1 × unknown role 'usr', expected one of system"),
    "no role": (chat({"content": "x"}), r"unknown role None"),
    "a role that is empty": (chat({"role": "", "content": "x"}), r"unknown role ''"),
    "a role in capitals": (chat({"role": "User", "content": "x"}), r"unknown role 'User'"),
    "no messages": (chat(), r"1 × no messages \(first: rows \[1\]\)"),
    "messages that are null": ({"messages": None}, r"no messages"),
    "no content": (spoken(), r"a message of assistant has no content"),
    "empty content": (spoken(content=""), r"a message of assistant has no content"),
    "content that is null": (spoken(content=None), r"a message of assistant has no content"),
    "content of spaces": (spoken(content="  \n "), r"a message of assistant has no content"),
    "a question without content": (chat({"role": "user", "content": ""}, ANSWERED), r"a message of user has no"),
    "no answer": (chat(ASKED), r"nothing to train"),
    "two questions and no answer": (chat(ASKED, ASKED), r"nothing to train"),
    "an answer first": (chat(ANSWERED, ASKED), r"the first message is the assistant's"),
    "an answer alone": (chat(ANSWERED), r"the first message is the assistant's"),
    "a system prompt alone": (chat({"role": "system", "content": "x"}), r"nothing to train"),
    "a row too long": (spoken(content="one two " * 200), r"longer than 256 tokens"),
    "an answer that begins within a token": (spoken(content="\n\nfive"), r"shares a token with the text around it"),
    "tools that are no list": (chat(ASKED, ANSWERED, tools="{}7"), r"tools are not JSON"),
    "tools of words": (chat(ASKED, ANSWERED, tools='["add"]'), r"tools are not a list of JSON schemas"),
    "a weight on a question": (chat({**ASKED, "weight": 1}, ANSWERED), r"only what the assistant says is trained"),
}


@pytest.mark.parametrize(("row", "reason"), ROWS.values(), ids=ROWS)
def test_a_row_that_cannot_be_trained_is_counted_located_and_refused(tmp_path, row, reason):
    task = SFT(mask="per_turn" if any("weight" in turn for turn in row["messages"] or ()) else "assistant")
    rows = [chat(ASKED, {**ANSWERED, "weight": 1}) if task.mask == "per_turn" else CHAT, row, chat(ASKED, ANSWERED)]
    message = refused(tmp_path, task, llama(), rows, [CHAT])
    assert f"train: 1 of {len(rows)} rows would be dropped" in message
    assert "(first: rows [1])" in message
    assert re.search(reason, message), message


COLUMNS = {
    "messages that are a text": (SFT(), llama(), [{"messages": "hello"}] * 2, r"2 × not a list of messages"),
    "messages that are numbers": (SFT(), llama(), [{"messages": [1, 2]}] * 2, r"2 × not a list of messages"),
    "content that is a number": (
        SFT(),
        llama(),
        [chat({"role": "user", "content": 7})] * 2,
        r"int where a text is expected",
    ),
    "columns of no layout": (
        SFT(),
        llama(),
        [{"question": "x", "reply": "y"}] * 2,
        r"no chat layout fits the columns question, reply",
    ),
    "a column that is missing": (
        SFT(),
        llama(),
        [{"prompt": "x", "answer": "y"}] * 2,
        r"no chat layout fits|the columns are",
    ),
    "prompts that are null": (
        SFT(),
        llama(),
        [{"prompt": None, "completion": "y"}] * 2,
        r"a message of user has no content",
    ),
    "completions that are null": (
        SFT(),
        llama(),
        [{"prompt": "x", "completion": None}] * 2,
        r"a message of assistant has no content",
    ),
    "prompts that are numbers": (
        SFT(),
        llama(),
        [{"prompt": 3, "completion": "y"}] * 2,
        r"int where a text is expected",
    ),
    "texts that are empty": (SFT(), llama(), [{"text": ""}] * 2, r"2 × no text"),
    "texts that are numbers": (SFT(), llama(), [{"text": 5}] * 2, r"2 × no text"),
    "every turn masked": (
        SFT(mask="per_turn"),
        llama(),
        [chat(ASKED, {**ANSWERED, "weight": 0})] * 2,
        r"2 × nothing to train",
    ),
    "a weight between": (
        SFT(mask="per_turn"),
        llama(),
        [chat(ASKED, {**ANSWERED, "weight": 0.5})] * 2,
        r"train: row 0: weight=0\.5 of a message of assistant: write 0 or 1",
    ),
    "a weight that is a word": (
        SFT(mask="per_turn"),
        llama(),
        [chat(ASKED, {**ANSWERED, "weight": "yes"})] * 2,
        r"row 0: weight='yes'",
    ),
    "a weight that no message has": (
        SFT(mask="per_turn", turn_weight="wieght"),
        llama(),
        [chat(ASKED, {**ANSWERED, "weight": 1})] * 2,
        r"task\.turn_weight=wieght: messages have the fields content, role, weight\. Did you mean weight\?",
    ),
    "a completion of messages alone": (
        SFT(mask="completion"),
        llama(),
        [CHAT] * 2,
        r"task\.mask=completion needs a column",
    ),
    "boundaries that are not there": (
        SFT(boundaries=Boundaries(start="<bot>", end="<|im_end|>")),
        llama(),
        [CHAT] * 2,
        r"task\.boundaries\.start='<bot>' occurs 0 times for 1 assistant messages",
    ),
    "an end that is not there": (
        SFT(boundaries=Boundaries(start="<|im_start|>assistant\n", end="<end>")),
        llama(),
        [CHAT] * 2,
        r"task\.boundaries\.end='<end>' does not end every assistant message",
    ),
    "no label column": (
        SequenceClassification(),
        bert(),
        [{"text": "good"}] * 2,
        r"no column for the label among text",
    ),
    "no text column": (SequenceClassification(), bert(), [{"label": "a"}] * 2, r"no column for the text among label"),
    "labels that are null": (
        SequenceClassification(),
        bert(),
        [{"text": "good", "label": None}] * 2,
        r"column label of train holds no label",
    ),
    "one label only": (SequenceClassification(), bert(), [LABEL] * 2, r"holds one label only: yes"),
    "labels as 0 and 1": (
        SequenceClassification(),
        bert(),
        [{"text": "good", "label": [0, 1, 1]}] * 2,
        r"hold 0 or 1 for each label",
    ),
    "numbers that are words": (
        SequenceClassification(problem_type="regression"),
        bert(),
        [LABEL] * 2,
        r"row 0: label 'yes' is not a number",
    ),
}


@pytest.mark.parametrize(("task", "model", "rows", "reason"), COLUMNS.values(), ids=COLUMNS)
def test_a_split_that_cannot_be_trained_is_refused(tmp_path, task, model, rows, reason):
    message = refused(tmp_path, task, model, rows, rows)
    assert re.search(reason, message), message


TWO = [LABEL, {"text": "bad film", "label": "no"}]
CLASSES = {
    "no text": ([*TWO, {"text": "", "label": "yes"}], r"1 × no text \(first: rows \[2\]\)"),
    "a text of spaces": ([*TWO, {"text": " \n", "label": "yes"}], r"1 × no text \(first: rows \[2\]\)"),
    "a text that is null": ([*TWO, {"text": None, "label": "yes"}], r"1 × no text"),
    "no label": ([*TWO, {"text": "the", "label": None}], r"1 × no label \(first: rows \[2\]\)"),
    "an empty label": ([*TWO, {"text": "the", "label": ""}], r"1 × no label"),
}


@pytest.mark.parametrize(("rows", "reason"), CLASSES.values(), ids=CLASSES)
def test_a_row_without_text_or_label_is_counted_located_and_refused(tmp_path, rows, reason):
    message = refused(tmp_path, SequenceClassification(), bert(), rows, TWO)
    assert re.search(reason, message), message


def test_a_number_that_is_none_is_counted_located_and_refused(tmp_path):
    rows = [{"text": "good", "label": 0.5}, {"text": "bad", "label": float("nan")}, {"text": "it", "label": 1.5}]
    message = refused(tmp_path, SequenceClassification(), bert(), rows, rows[:1])
    assert re.search(r"1 × no label \(first: rows \[1\]\)|train\.jsonl:2", message), message


def test_a_label_of_validation_that_train_has_not_is_refused_by_row(tmp_path):
    message = refused(tmp_path, SequenceClassification(), bert(), TWO, [LABEL, {"text": "it", "label": "maybe"}])
    assert "validation: row 1: label 'maybe' does not occur in train, which has no, yes" in message


GOOD = json.dumps(CHAT).encode()
FILES = {
    "a line cut short": (GOOD + b"\n" + GOOD[:20], "jsonl", r"train\.jsonl:2 is not JSON"),
    "a line that is no JSON": (GOOD + b"\nhello\n", "jsonl", r"train\.jsonl:2 is not JSON"),
    "single quotes": (GOOD + b"\n{'messages': []}\n", "jsonl", r"train\.jsonl:2 is not JSON"),
    "a comma too many": (GOOD + b'\n{"messages": [],}\n', "jsonl", r"train\.jsonl:2 is not JSON"),
    "two rows on a line": (GOOD + b"\n" + GOOD + b" x\n", "jsonl", r"train\.jsonl:2"),
    "a file without rows": (b"", "jsonl", r"train\.jsonl is empty"),
    "a file of blank lines": (b"\n\n\n", "jsonl", r"train\.jsonl is empty"),
    "bytes that are not UTF-8": (GOOD + b'\n{"messages": "\xff\xfe"}\n', "jsonl", r"train\.jsonl:2, byte 15"),
    "a letter of Latin-1": (
        GOOD + b"\n" + GOOD.replace(b'"}', b' caf\xe9"}'),
        "jsonl",
        r"train\.jsonl:2, byte \d+ of the line, is not UTF-8: 0xe9",
    ),
    "UTF-16": (json.dumps(CHAT).encode("utf-16"), "jsonl", r"UTF|utf|train\.jsonl:1"),
    "a list that is cut short": (b'[{"text": "x"}, {"te', "json", r"train\.json"),
    "a JSON file of a number": (b"7", "json", r"train|rows|read"),
    "columns of a CSV that differ": (b"text,label\na,b\nc\n", "csv", r"label|train|row"),
    "a CSV with a head alone": (b"text,label\n", "csv", r"train\.csv:1 names columns, and no row comes after it"),
    "a Parquet file that is none": (b"PAR1 hello", "parquet", r"train\.parquet|Parquet|cannot be read"),
    "an Arrow file that is none": (b"hello", "arrow", r"train\.arrow|cannot be read"),
}


@pytest.mark.parametrize(("content", "ending", "reason"), FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content, ending, reason):
    good = {"csv": b"text,label\na,b\nc,d\n", "jsonl": GOOD + b"\n", "json": b'[{"text": "x"}, {"text": "y"}]'}
    task, model = (SequenceClassification(), bert()) if ending == "csv" else (SFT(), llama())
    other = good.get(ending, content)
    message = refused(tmp_path, task, model, content, other, name=f"train.{ending}")
    assert re.search(reason, message), message
    assert "\n" not in message


def test_there_are_at_least_sixty_of_them():
    assert len(ROWS) + len(COLUMNS) + len(CLASSES) + len(FILES) + 1 + 1 >= 60
