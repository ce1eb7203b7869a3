"""Extractive question answering: places of answers, windows, what is trained, what is answered."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import bert_tokenizer, chat_tokenizer, prepared
from tiny_runs import LABELS, LORA, bert, common, config, finetune, llama, own_caches, root, worked
from transformers import AutoModelForQuestionAnswering

from finetune.artifacts import verify
from finetune.artifacts.predict import answering
from finetune.config.task import RowError
from finetune.data import answers
from finetune.data.answers import FOUND, NONE, NOT_THERE, UNCLEAR
from finetune.data.prepare import prepare
from finetune.data.preview import Choice, shown
from finetune.data.windows import TOO_LONG, UNEVEN, Decoding, Window, Windows
from finetune.errors import UserError
from finetune.tasks.question_answering import QuestionAnswering

ANIMALS, OTHERS = LABELS["animal"].split(), [*LABELS["plant"].split(), *LABELS["stone"].split()]


def asked(count, length=lambda at: 3 + at % 6, unanswerable=0):
    """Which animal is among plants and stones; every `unanswerable`-th context has none."""
    rows = []
    for at in range(count):
        words = [OTHERS[(at * 3 + n) % 8] for n in range(length(at))]
        answer = ANIMALS[at % 4]
        place = at % (len(words) + 1)
        before = "".join(f"{word} " for word in words[:place])
        context = " ".join([*words[:place], answer, *words[place:]])
        found = {"text": [answer], "answer_start": [len(before)]}
        if unanswerable and at % unanswerable == 0:
            context, found = " ".join(words), {"text": [], "answer_start": []}
        rows.append({"id": str(at), "question": "the", "context": context, "answers": found})
    return rows


def written(name, rows):
    folder = root() / "answers"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / f"{name}.jsonl"


def recipe(*more, rows=asked):
    train, validation = written("train", rows(48)), written("validation", rows(12))
    files = f"{{train: {train}, validation: {validation}}}"
    mine = [part for part in common(files) if not part.startswith("dataset.path")]
    return ["task=question_answering", f"model.path={bert()}", f"dataset.path={root() / 'answers'}", *mine, *more]


METHODS = {
    "full": (),
    "lora": LORA,
    "llama": (f"model.path={llama()}",),
}


@cache
def trained(method):
    return worked(recipe(*METHODS[method], "trainer.max_steps=40", f"name=answers_{method}"), root() / "runs")


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_model_is_better_than_the_untouched_one_and_is_verified(method):
    folder = trained(method)
    found = folder.read("evaluation.json")
    print(found)
    with own_caches():
        assert all(finding.passed for finding in verify.compare(folder))
