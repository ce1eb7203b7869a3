"""Multiple choice: which of several answers to a question, or endings of a text, is the right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config.task import NOTES, Encoder, Facts, RowError, Task
from finetune.data import choosing
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
BESIDE = ("is_choice", "labels")
"""What of a batch the model does not take."""


@dataclass(kw_only=True)
class MultipleChoice(Task):
    """A score for each choice beside its question. Rows may have different numbers of choices."""

    model_class: ClassVar[str] = "transformers.AutoModelForMultipleChoice"
    roles: ClassVar[tuple[str, ...]] = ("question", "choices", "answer")
    unread: ClassVar[dict[str, str]] = {
        "tokenizer.chat_template": "choices are scored as they are, not rendered",
        "evaluation.generation": "choices are scored, and nothing is written",
        "trainer.label_smoothing_factor": "the loss is that of the choices of each row",
    }

    name: str = "multiple_choice"

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """The columns, and how answers name their choices."""
        from finetune.data.columns import detect

        found = detect(train.column_names, columns, USUAL)
        return {"columns": found, "answers": choosing.naming(train, found["choices"], found["answer"])}

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """The tokens of all choices end to end, how many each has, and the number of the right one."""
        from finetune.data.columns import check

        columns = facts["columns"]
        check(columns, rows.column_names)

        def read(row: dict[str, Any], index: int) -> tuple[str, list[str], int]:
            question, choices = choosing.asked(row[columns["question"]], row[columns["choices"]])
            answer = choosing.right(facts["answers"], row[columns["answer"]], row[columns["choices"]], index)
            return question, choices, answer

        def tokenize(items: Sequence[tuple[str, list[str], int]], _: int | None) -> list[dict[str, Any]]:
            return [self._row(tokenizer, *item, max_length) for item in items]

        return Encoder(read, tokenize, lists=("choices",), overlong="whole")

    def _row(
        self, tokenizer: PreTrainedTokenizerBase, question: str, choices: list[str], answer: int, limit: int
    ) -> dict[str, Any]:
        encoded, is_cut = choosing.pairs(tokenizer, question, choices, limit)
        names = [name for name in encoded if name != "attention_mask"]
        lengths = [len(ids) for ids in encoded["input_ids"]]
        joined = {name: list(chain.from_iterable(encoded[name])) for name in names}
        return {**joined, "choices": lengths, "labels": answer, NOTES: ["truncated"] * is_cut}

    def sequences(self, row: dict[str, Any], facts: Facts) -> list[tuple[str, int]]:
        """The choices, by the numbers that answers are."""
        return [(f"choice {number}", length) for number, length in enumerate(row["choices"])]

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """(rows, choices, tokens); `is_choice` tells the choices of a row from those that only fill a batch."""
        import torch

        empty = tokenizer("")["input_ids"] or [tokenizer.pad_token_id]

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            most = max(len(row["choices"]) for row in rows)
            flat = [choice for row in rows for choice in choosing.apart(row, most, empty)]
            padded = tokenizer.pad(flat, return_tensors="pt")
            batch = {name: value.view(len(rows), most, -1) for name, value in padded.items()}
            counts = torch.tensor([[len(row["choices"])] for row in rows])
            labels = torch.tensor([int(row["labels"]) for row in rows])
            return {**batch, "is_choice": torch.arange(most) < counts, "labels": labels}

        return collate

    def forward(self, model: Any, batch: dict[str, torch.Tensor], facts: Facts) -> Any:
        """A loss over the choices that a row has; with labels, the logits of those that it has not are -inf."""
        import torch

        logits = model(**{name: value for name, value in batch.items() if name not in BESIDE}).logits.float()
        if "labels" not in batch:
            return SimpleNamespace(logits=logits)
        logits = logits.masked_fill(~batch["is_choice"], -torch.inf)
        return SimpleNamespace(logits=logits, loss=torch.nn.functional.cross_entropy(logits, batch["labels"]))

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
                question, choices = choosing.asked(row.get(given["question"]), row.get(given["choices"]))
            except RowError as error:
                raise UserError(
                    f"input {number}: {error}; a row has {given['question']}, {given['choices']}"
                ) from None
            encoded, _ = choosing.pairs(tokenizer, question, choices, cut)
            padded = tokenizer.pad(encoded, return_tensors="pt").to(model.device)
            with torch.no_grad():
                shares = model(**{name: value[None] for name, value in padded.items()}).logits[0].float().softmax(-1)
            best = int(shares.argmax())
            yield {"input": item, "choice": choices[best], "index": best, "confidence": round(float(shares[best]), 4)}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two questions."""
        names = {role: columns.get(role, role) for role in USUAL}
        rows = (("What barks?", ["a dog", "a stone"], 0), ("What swims?", ["a tree", "a fish", "a house"], 1))
        return [dict(zip(names.values(), row, strict=True)) for row in rows]
