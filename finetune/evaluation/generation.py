"""Generated answers against the answers of the data, with the share that hit the token limit."""

import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune.config.schema import GenerationConfig
from finetune.config.task import Task
from finetune.models.precision import autocast

Question = dict[str, Any]
"""`prompt`: text or messages; `answer`: the text expected."""


def answer_all(
    task: Task, model: Any, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], compute: str,
    config: GenerationConfig,
) -> list[dict[str, Any]]:  # fmt: skip
    """Each question with the model's answer and whether it is right."""
    was_training = model.training
    model.eval()
    prompts = [question["prompt"] for question in questions]
    with autocast(compute):
        options = {"max_new_tokens": config.max_new_tokens, "generation_config": config.generation_config}
        found = list(task.predict(model, tokenizer, prompts, options))
    model.train(was_training)
    return [_marked(question, given, config.answer_pattern) for question, given in zip(questions, found, strict=True)]


def _marked(question: Question, given: dict[str, Any], pattern: str | None) -> dict[str, Any]:
    right = extract(given["answer"], pattern) == extract(question["answer"], pattern)
    return {**question, "given": given["answer"], "capped": given["capped"], "right": right}


def scores(answers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Exact match, and the share of answers cut off by the token limit."""
    return {
        "generation_exact_match": sum(answer["right"] for answer in answers) / len(answers),
        "generation_capped": sum(answer["capped"] for answer in answers) / len(answers),
    }


def extract(text: str, pattern: str | None) -> str:
    """The last match of the pattern's first group, else the whole text; spaces at the ends do not count."""
    if pattern is None:
        return text.strip()
    found = re.findall(pattern, text)
    last = found[-1] if found else ""
    return (last[0] if isinstance(last, tuple) else last).strip()
