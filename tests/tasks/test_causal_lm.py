"""Plain text: trained on, packed, begun from a config alone, and gone on with."""

import json
import re
from functools import cache

import pytest
from tiny_runs import LORA, common, config, finetune, llama, own_caches, root, worked
from transformers import LlamaConfig

from finetune.artifacts import verify
from finetune.artifacts.predict import answering
from finetune.data.prepare import prepare
from finetune.errors import UserError

QLORA = ("adapter=qlora", "adapter.lora_dropout=0")
METHODS = {
    "full": (),
    "lora": LORA,
    "qlora": QLORA,
    "wrapped": ("packing=wrapped", "tokenizer.max_length=16"),
    "from_config": ("model.from_config=true", "model.config.num_hidden_layers=1"),
}


def recipe(*more):
    """A recipe on the command line."""
    splits = "{train: texts_train.csv, validation: texts_validation.csv}"
    return ["task=causal_lm", f"model.path={llama()}", *common(splits), *more]


@cache
def trained(method):
    return worked(recipe(*METHODS[method], f"name=causal_{method}"), root() / "runs")


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_model_is_better_than_the_untouched_one_and_is_verified(method):
    found = trained(method).read("evaluation.json")
    assert found["score"] == ["loss", False]
    assert found["scores"]["loss"] < found["baseline"]["loss"] - 0.3
    assert found["scores"]["perplexity"] < found["baseline"]["perplexity"]
    with own_caches():
        assert all(finding.passed for finding in verify.compare(trained(method)))


def test_texts_are_gone_on_with():
    of_text, of_row = answering(trained("full"), {"max_new_tokens": 4})(["the", {"text": "the cat"}])
    assert of_text["text"]
    assert set(of_row) == {"input", "text", "capped"}


def test_every_token_of_a_text_is_trained_and_its_end_is_one_of_them():
    account = trained("full").read("plan.json")["report"]["train"]
    assert account["notes"]["trained tokens"] == account["notes"]["tokens"]


def test_from_config_takes_no_weights_and_says_so(tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in llama().iterdir():
        if file.suffix == ".json":
            (bare / file.name).write_bytes(file.read_bytes())
    more = [part for part in recipe("model.from_config=true") if not part.startswith("model.path")]
    path = [*more, f"model.path={bare}", f"output_dir={tmp_path}"]
    assert finetune("plan", *path) == 0
    assert "its weights at random" in capsys.readouterr().out
    folder = worked(path, tmp_path / "runs")
    assert LlamaConfig.from_pretrained(folder.model).hidden_size == LlamaConfig.from_pretrained(llama()).hidden_size


@pytest.mark.parametrize("wrong", [3, "", None, ["a"], {"other": "a"}])
def test_an_input_that_is_no_text_is_refused_by_number(wrong):
    with pytest.raises(UserError, match=r"input 1: .*; write a text, or a row with text"):
        list(answering(trained("full"), {})(["the", wrong]))


def written(folder, rows):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [part for part in recipe() if not part.startswith("dataset.")] + [
        f"dataset.path={folder / 'rows.jsonl'}", "dataset.validation_size=2"
    ]  # fmt: skip


LONG = {"text": "the cat " * 60}
BAD = {
    "no column of texts": ([{"words": "a"}] * 8, (), "no column for the text among words"),
    "a column that is not there": ([{"text": "a"}] * 8, ("dataset.columns.text=txt",), "the columns are text"),
    "numbers instead of texts": ([{"text": 3}] * 8, (), "text is no text but int"),
    "empty texts": ([{"text": "a"}] * 4 + [{"text": " "}] * 4, (), "no text in text"),
    "too long": ([LONG] * 8, ("task.overlong=error",), r"has \d+ tokens, more than tokenizer.max_length=64"),
    "an adapter over nothing": ([{"text": "a"}] * 8, ("model.from_config=true", "adapter=lora"), "leave them random"),
    "a mask token asked for": ([{"text": "a"}] * 8, ("task.mlm_probability=0.1",), "mlm_probability"),
    "answers asked for": (
        [{"text": "a"}] * 8,
        ("evaluation.generation.rows=2",),
        "asks nothing that could be answered",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_reason(case, tmp_path, capsys):
    rows, more, reason = BAD[case]
    assert finetune("plan", *written(tmp_path, rows), *more, f"output_dir={tmp_path / 'runs'}") == 2
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    assert re.search(reason, out.err + out.out), out.err + out.out


def test_a_long_text_is_split_and_counted(tmp_path):
    with own_caches():
        found = prepare(config(written(tmp_path, [LONG] * 8)))
    assert found.report["train"]["notes"]["split"] == 6
    assert found.rows("train").lengths.max() == 64
