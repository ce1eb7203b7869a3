"""Multiple choice: which of several answers to a question, or endings of a text, is the right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config.task import NOTES, Encoder, Facts, RowError, Task
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

USUAL = {
    "question": ("question", "context", "sent1", "startphrase", "ctx", "prompt"),
    "choices": ("choices", "endings", "options"),
    "answer": ("answer", "label", "answerKey", "labels"),
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(kw_only=True)
class MultipleChoice(Task):
    """A score for each choice beside its question. Rows may have different numbers of choices."""

    model_class: ClassVar[str] = "transformers.AutoModelForMultipleChoice"
    roles: ClassVar[tuple[str, ...]] = ("question", "choices", "answer")
    unread: ClassVar[dict[str, str]] = {
        "tokenizer.chat_template": "choices are scored as they are, not rendered",
        "evaluation.generation": "choices are scored, and nothing is written",
    }

    name: str = "multiple_choice"

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """The columns."""
        from finetune.data.columns import detect

        return {"columns": detect(train.column_names, columns, USUAL)}

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """The tokens of all choices end to end, how many each has, and the number of the right one."""
        from finetune.data.columns import check

        columns = facts["columns"]
        check(columns, rows.column_names)

        def read(row: dict[str, Any], index: int) -> tuple[str, list[str], int]:
            question, choices = _asked(row[columns["question"]], row[columns["choices"]])
            return question, choices, _right(row[columns["answer"]], choices, index)

        def tokenize(items: Sequence[tuple[str, list[str], int]], _: int | None) -> list[dict[str, Any]]:
            return [self._row(tokenizer, *item, max_length) for item in items]

        return Encoder(read, tokenize, lists=("choices",), overlong="whole")

    def _row(
        self, tokenizer: PreTrainedTokenizerBase, question: str, choices: list[str], answer: int, limit: int
    ) -> dict[str, Any]:
        encoded, is_cut = _pairs(tokenizer, question, choices, limit)
        names = [name for name in encoded if name != "attention_mask"]
        lengths = [len(ids) for ids in encoded["input_ids"]]
        joined = {name: list(chain.from_iterable(encoded[name])) for name in names}
        return {**joined, "choices": lengths, "labels": answer, NOTES: ["truncated"] * is_cut}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """(rows, choices, tokens); a row with fewer choices than others gets empty ones, which are wrong."""
        import torch

        empty = tokenizer("")["input_ids"] or [tokenizer.pad_token_id]

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            most = max(len(row["choices"]) for row in rows)
            flat = [choice for row in rows for choice in _choices(row, most, empty)]
            padded = tokenizer.pad(flat, return_tensors="pt")
            batch = {name: value.view(len(rows), most, -1) for name, value in padded.items()}
            return {**batch, "labels": torch.tensor([int(row["labels"]) for row in rows])}

        return collate

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """The number of the likeliest choice."""
        return logits.argmax(-1), batch["labels"]

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Share of questions answered rightly."""
        return ("accuracy",)

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """The likeliest choice, its number and its confidence. An input is a row with a question and choices."""
        import torch

        from finetune.models.tokenizer import max_length_of

        given = {"question": "question", "choices": "choices"} | options.get("columns", {})
        cut = options.get("max_length") or max_length_of(tokenizer, model.config)
        for number, item in enumerate(inputs):
            row = item if isinstance(item, dict) else {}
            try:
                question, choices = _asked(row.get(given["question"]), row.get(given["choices"]))
            except RowError as error:
                raise UserError(
                    f"input {number}: {error}; a row has {given['question']}, {given['choices']}"
                ) from None
            padded = tokenizer.pad(_pairs(tokenizer, question, choices, cut)[0], return_tensors="pt").to(model.device)
            with torch.no_grad():
                shares = model(**{name: value[None] for name, value in padded.items()}).logits[0].float().softmax(-1)
            best = int(shares.argmax())
            yield {"input": item, "choice": choices[best], "index": best, "confidence": round(float(shares[best]), 4)}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two questions."""
        names = {role: columns.get(role, role) for role in USUAL}
        rows = (("What barks?", ["a dog", "a stone"], 0), ("What swims?", ["a tree", "a fish", "a house"], 1))
        return [dict(zip(names.values(), row, strict=True)) for row in rows]


def _asked(question: Any, choices: Any) -> tuple[str, list[str]]:
    """A question with its choices; data sets of the AI2 keep the texts of choices in a mapping."""
    if isinstance(choices, dict):
        choices = choices.get("text")
    if not isinstance(question, str) or not question.strip():
        raise RowError("no question")
    if not isinstance(choices, list) or len(choices) < 2:
        raise RowError("fewer than two choices")
    return question, [str(choice) for choice in choices]


def _right(answer: Any, choices: list[str], index: int) -> int:
    """The number of the right choice, written as a number, a letter or its text."""
    if answer is None or answer == "":
        raise RowError("no answer")
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    if isinstance(answer, str) and len(answer) == 1 and answer.upper() in LETTERS:
        answer = LETTERS.index(answer.upper())
    if not str(answer).isdigit() or int(answer) >= len(choices):
        raise UserError(f"row {index}: answer {answer!r} names none of its {len(choices)} choices")
    return int(answer)


def _pairs(tokenizer: PreTrainedTokenizerBase, question: str, choices: list[str], limit: int) -> tuple[Any, bool]:
    """Each choice behind the question, and whether one had to be cut: then the longer of both loses its end."""
    pairs = [question] * len(choices), choices
    whole = tokenizer(*pairs, verbose=False)
    if max(map(len, whole["input_ids"])) <= limit:
        return whole, False
    return tokenizer(*pairs, truncation="longest_first", max_length=limit), True


def _choices(row: dict[str, Any], most: int, empty: list[int]) -> Iterator[dict[str, Any]]:
    """The choices of a row as rows of their own."""
    names, start = [name for name in row if name not in ("choices", "labels")], 0
    for length in [int(each) for each in row["choices"]]:
        yield {name: list(map(int, row[name][start : start + length])) for name in names}
        start += length
    for _ in range(most - len(row["choices"])):
        yield {name: empty if name == "input_ids" else [0] * len(empty) for name in names}
