"""Every shipped recipe: short, described, composed as it is, and trained shrunk on rows of its own layout."""

import json
from pathlib import Path

import pytest
from tiny_runs import bert, llama, worked

from finetune.artifacts import verify
from finetune.config import recipes
from finetune.config.check import load_config

MESSAGES = [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "one animal"}]
ROWS = {
    "stanfordnlp/imdb": [{"text": "the cat dog", "label": 0}, {"text": "the oak", "label": 1}],
    "stanfordnlp/sst2": [
        {"idx": 0, "sentence": "the cat", "label": "negative"},
        {"idx": 1, "sentence": "the oak", "label": "positive"},
    ],
    "sentence-transformers/stsb": [
        {"sentence1": "the cat", "sentence2": "the dog", "score": 0.8},
        {"sentence1": "the cat", "sentence2": "the oak", "score": 0.1},
    ],
    "google-research-datasets/go_emotions": [
        {"text": "the cat", "labels": [0, 2], "id": "a"},
        {"text": "the oak", "labels": [1], "id": "b"},
    ],
    "openai/gsm8k": [{"question": "a cat", "answer": "one animal"}],
    "HuggingFaceH4/ultrachat_200k": [{"prompt": "a cat", "prompt_id": "a", "messages": MESSAGES}],
    "yahma/alpaca-cleaned": [{"instruction": "a cat", "input": "", "output": "one animal"}],
    "HuggingFaceTB/smoltalk": [{"messages": MESSAGES}],
    "recipes://data/wordnet": None,
}
"""The data sets of the recipes: rows with the columns each has on the Hub; None ships with the recipes."""


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_composes_and_says_what_it_does(name: str) -> None:
    load_config([f"recipe={name}"])
    text = recipes.find(name).read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n")
    assert f"#   finetune train recipe={name}\n" in text
    assert len(recipes.first_comment(recipes.find(name))) > 30


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_trains_shrunk_and_what_it_saves_is_what_it_trained(name: str, tmp_path: Path) -> None:
    found, _ = load_config([f"recipe={name}"])
    base = llama() if found.task.name == "sft" else bert()
    splits = {found.dataset.train_split, found.dataset.validation_split or "validation"}
    data = _data(tmp_path, ROWS[found.dataset.path], found.task.name, splits)
    shrunk = [
        f"recipe={name}", f"model.path={base}", "model.fallback_path=null", "model.sha256=null", *data,
        "tokenizer.max_length=32", "global_batch_size=null", "trainer.per_device_train_batch_size=2",
        "trainer.max_steps=2", "evaluation.generation.rows=0",
    ]  # fmt: skip
    run = worked(shrunk, tmp_path / "runs")
    assert all(finding.passed or finding.name == "adapter" for finding in verify.compare(run))


def _data(folder: Path, rows: list[dict] | None, task: str, splits: set[str]) -> list[str]:
    """A data set of a few rows in a folder; rows that ship are replaced by the same columns in the tiny vocabulary."""
    rows = rows or (
        [{"messages": MESSAGES}] if task == "sft" else [{"text": "cat", "label": "x"}, {"text": "oak", "label": "y"}]
    )
    for split in splits:
        lines = "".join(json.dumps(row) + "\n" for row in rows * 4)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    files = ", ".join(f"{split}: {split}.jsonl" for split in sorted(splits))
    return [f"dataset.path={folder}", "dataset.name=null", f"++dataset.data_files={{{files}}}"]
