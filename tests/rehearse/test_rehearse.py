"""The rehearsal as a user meets it: what it says, what it leaves behind, what it refuses."""

import json
import tempfile
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file
from tiny_runs import bert, chat, classify, config, finetune, own_caches, root

from finetune.artifacts import verify
from finetune.errors import FinetuneError
from finetune.rehearse import rows
from finetune.rehearse.rehearse import Stage, rehearse
from finetune.rehearse.shrink import Replaced
from finetune.training import checkpoint

LABELS = 40
TORN = "{text: a, prompt: b}"


def test_a_rehearsal_says_what_is_replaced_and_leaves_nothing_behind(here, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    before = prepared()
    published = ("publish=hub", "publish.repo_id=me/x", "model.base_id=me/base")
    assert finetune("rehearse", *classify("adapter=lora", "tracking=wandb", *published)) == 0
    said = capsys.readouterr().out
    for line in (
        "instead of model",
        "from its own config",
        "instead of rows of",
        "instead of publish=hub: nothing is",
    ):
        assert line in said
    for stage in ("planned", "trained", "resumed", "verified"):
        assert f"✓ {stage} in" in said
    assert prepared() == before
    assert not list(here.glob("rehearsal-*"))


def prepared():
    return sorted((root() / "cache" / "finetune" / "prepared").glob("*"))


def test_a_rehearsal_without_the_model_and_the_data_makes_both_up(tmp_path):
    columns = "dataset.columns={prompt: question, completion: reply}"
    recipe = config(("task=sft", "model.path=me/model", "dataset.path=me/own", columns))
    with own_caches():
        said = list(rehearse(recipe, tmp_path, "gemma3_text", verified=verify.compare))
    assert "16 made up, by the columns question, reply" in {item.by for item in said if isinstance(item, Replaced)}
    (base,) = tmp_path.glob("*/base")
    assert json.loads((base / "config.json").read_text())["model_type"] == "gemma3_text"
    assert len(list(tmp_path.glob("runs/*/*/plan.json"))) == 2


def test_a_run_that_ends_elsewhere_from_its_checkpoint_is_no_rehearsal(tmp_path):
    stages = rehearse(config(chat()), tmp_path, verified=verify.compare)
    with own_caches():
        next(stage for stage in stages if isinstance(stage, Stage) and stage.name == "trained")
        forget(next(tmp_path.glob("runs/*/*/checkpoints/checkpoint-1/model.safetensors")))
        with pytest.raises(FinetuneError, match="goes on from checkpoint-1 ends elsewhere: loss"):
            next(stages)


def forget(weights):
    """Half of every weight is lost, and the checkpoint is sealed again."""
    save_file({name: value * 0.5 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    manifest, staged = checkpoint.read(weights.parent), weights.parent.rename(weights.parent.with_name("staged"))
    files = {**manifest.files, **checkpoint.flushed([staged / weights.name], staged)}
    checkpoint.publish(staged, weights.parent, replace(manifest, files=files))


def test_a_streamed_recipe_is_rehearsed_on_the_first_of_its_rows(tmp_path):
    recipe = config(chat("dataset.streaming=true", "dataset.limit=5"))
    with own_caches():
        found = rows.find(recipe, 16, tmp_path)
    assert len(found.splits["train"]) == 5
    # What is saved is whole: it needs no limit, packed or not.
    assert not found.saved(tmp_path / "rows", recipe.dataset).streaming


def test_a_streamed_recipe_for_accelerators_is_rehearsed_where_there_are_none(tmp_path):
    recipe = config(chat("dataset.streaming=true", "trainer.max_steps=9", "launch=torchrun"))
    with own_caches():
        assert rows.find(recipe, 16, tmp_path).splits["train"]


def test_more_rows_are_taken_where_few_do_not_hold_every_label(tmp_path, caplog):
    """Of 16 rows, none has most of the labels that are to be scored."""
    rows = [{"text": f"the cat {at}", "label": f"label {at % LABELS}"} for at in range(800)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = ("task=sequence_classification", f"model.path={bert()}", f"dataset.path={tmp_path}/train.jsonl")
    caplog.set_level("INFO", logger="finetune")
    with own_caches():
        first = next(
            stage
            for stage in rehearse(config(recipe), tmp_path / "rehearsal", verified=verify.compare)
            if isinstance(stage, Stage)
        )
    assert "16 rows do not do: validation: row" in caplog.text
    assert "train 512 of 512" in first.detail


BAD = {
    "a model of which nothing is known": (
        ("task=sft", "model.path=me/unknown", "dataset.path=openai/gsm8k"),
        "nothing is known of this model here. Say what it is: finetune rehearse --model-type llama",
    ),
    "a type that transformers does not have": (
        ("--model-type", "lama", "recipe=sft/llama3_alpaca_lora"),
        "--model-type lama: transformers has no model of that type. Did you mean llama?",
    ),
    "a type without a head for the task": (
        ("--model-type", "t5", "recipe=sft/llama3_alpaca_lora"),
        "t5 has no AutoModelForCausalLM. Tasks for t5: question_answering, reranking, reward, seq2seq, ",
    ),
    "columns that no layout has together": (
        ("--model-type", "llama", "task=sft", "model.path=a/b", "dataset.path=a/b", f"dataset.columns={TORN}"),
        "no chat layout has the roles text, prompt together",
    ),
    "a folder with something in it": (
        ("--keep", ".", "recipe=sft/llama3_alpaca_lora"),
        "--keep .: there is something in it already",
    ),
    "a column that is not there": (
        ("recipe=sft/smollm2_gsm8k_lora", "dataset.columns.prompt=qestion"),
        "the columns are question, answer. Did you mean question?",
    ),
    "a value the architecture does not have": (
        ("recipe=sft/llama3_alpaca_lora", "+model.config.num_hiden_layers=3"),
        "model.config.num_hiden_layers: llama has no such value. Did you mean num_hidden_layers?",
    ),
    "a key that is not there": (("recipe=sft/llama3_alpaca_lora", "trainer.learning_rat=1"), "learning_rate"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_rehearsed_is_refused_in_one_message(what, here, capsys):
    words, expected = BAD[what]
    (here / "something").touch()
    assert finetune("rehearse", *words) == 2
    assert expected in capsys.readouterr().err
