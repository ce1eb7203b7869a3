"""Answers that a model gives to validation rows, and their scores against the answers of the data."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.config.schema import GenerationConfig
from finetune.config.task import Facts, RowError, Task
from finetune.evaluation import metrics
from finetune.evaluation.evaluate import Spread, alone
from finetune.models.generate import BATCH
from finetune.models.precision import autocast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Question = dict[str, Any]
"""`prompt`: what `Task.predict` takes; `answer`: the text expected, or a list of texts that are right."""


def asked(task: Task, rows: Iterable[tuple[dict[str, Any], Facts]]) -> Iterator[Question]:
    """What raw rows ask, but for those that ask nothing.

    Args:
        rows: each with what was learned of its source.
    """
    for row, facts in rows:
        with suppress(RowError):
            prompt, answer = task.question(row, facts)
            yield {"prompt": prompt, "answer": answer}


def names(task: Task, facts: Facts, config: GenerationConfig) -> tuple[str, ...]:
    """The metrics of the answers; none where they are only compared."""
    return tuple(task.answer_metrics(facts) if config.metrics is None else config.metrics)


@dataclass(frozen=True)
class Answering:
    """How questions are answered and the answers scored: the same for every model."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    compute: str
    """The dtype of matrix products."""
    config: GenerationConfig
    names: tuple[str, ...]
    """The metrics."""
    options: dict[str, Any]
    """Of `Task.predict`, besides how answers are decoded."""
    spread: Spread = alone
    """Who answers which of them; the answers are the same."""

    def __call__(self, model: Any, questions: Sequence[Question]) -> list[dict[str, Any]]:
        """Each question with the model's answer and whether it is right."""
        was_training, size = model.training, math.lcm(BATCH, self.options.get("batch_size", BATCH))
        model.eval()
        prompts = [question["prompt"] for question in questions]
        pieces = [prompts[at : at + size] for at in range(0, len(prompts), size)]
        parts = self.spread(pieces, lambda piece: self._answers(model, piece))
        model.train(was_training)
        found = [answer for part in parts for answer in part]
        return [self._marked(question, given) for question, given in zip(questions, found, strict=True)]

    def _answers(self, model: Any, prompts: Sequence[Any]) -> list[dict[str, Any]]:
        decoding: dict[str, Any] = {"generation_config": self.config.generation_config}
        if self.config.max_new_tokens is not None:
            decoding["max_new_tokens"] = self.config.max_new_tokens
        with autocast(self.compute):
            return list(self.task.predict(model, self.tokenizer, prompts, {**self.options, **decoding}))

    def _marked(self, question: Question, given: dict[str, Any]) -> dict[str, Any]:
        text, pattern = extract(given["answer"], self.config.answer_pattern), self.config.answer_pattern
        right = text in [extract(answer, pattern) for answer in _several(question["answer"])]
        capped = {"capped": given["capped"]} if "capped" in given else {}
        return {**question, "given": given["answer"], **capped, "right": right}

    def scores(self, answers: Sequence[dict[str, Any]]) -> dict[str, float]:
        """The metrics, else exact match; and the share of answers that the token limit cut off, where there is one."""
        if not answers:
            return {}
        pattern = self.config.answer_pattern
        given = [extract(answer["given"], pattern) for answer in answers]
        expected = [[extract(text, pattern) for text in _several(answer["answer"])] for answer in answers]
        found = metrics.compute(self.names, given, expected)
        if not self.names:
            found["generation_exact_match"] = sum(answer["right"] for answer in answers) / len(answers)
        if "capped" in answers[0]:
            found["generation_capped"] = sum(answer["capped"] for answer in answers) / len(answers)
        return found


def _several(answer: str | list[str]) -> list[str]:
    return [answer] if isinstance(answer, str) else answer


def extract(text: str, pattern: str | None) -> str:
    """The last match of the pattern's first group, else the whole text; spaces at the ends do not count."""
    if pattern is None:
        return text.strip()
    found = re.findall(pattern, text)
    last = found[-1] if found else ""
    return (last[0] if isinstance(last, tuple) else last).strip()
