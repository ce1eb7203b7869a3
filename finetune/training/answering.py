"""Questions that a run asks its model, before training and after it: answered and scored the same way each time."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune.evaluation import generation
from finetune.evaluation.evaluate import Spread, alone
from finetune.evaluation.generation import Answering, Question
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder

QUESTIONS, ANSWERS = "questions.json", "answers.jsonl"


def of(plan: Plan, words: PreTrainedTokenizerBase, spread: Spread = alone) -> Answering:
    """How this run answers.

    Args:
        spread: who answers what, where several processes do.
    """
    config = plan.config.evaluation.generation
    names = generation.names(plan.config.task, plan.facts, config)
    options = {"facts": plan.facts, "max_length": plan.max_length, "batch_size": plan.evaluation_batch_size}
    return Answering(plan.config.task, words, plan.precision.compute, config, names, options, spread)


def questions_of(folder: RunFolder) -> list[Question]:
    """What is asked; nothing where the recipe wants no answers."""
    return folder.read(QUESTIONS) or []


def key(plan: Plan, folder: RunFolder) -> str:
    """What decides the answers of a model."""
    decides = [questions_of(folder), asdict(plan.config.evaluation.generation), plan.max_length]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def keep(answers: Iterable[dict[str, Any]], folder: RunFolder) -> None:
    """The answers as text, to be read."""
    lines = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    (folder / ANSWERS).write_text(lines, encoding="utf-8")
