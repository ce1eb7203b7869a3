"""Ratings of texts: stars from 1 to the most there can be, learned as a number, told as stars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from finetune.config.task import Encoder, Facts
from finetune.errors import UserError
from finetune.tasks.sequence_classification import SequenceClassification

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(kw_only=True)
class TextRating(SequenceClassification):
    """Sequence classification does the rest: columns, tokens, head, batches."""

    name: str = "text_rating"
    problem_type: Literal["regression"] = "regression"
    most: int = 5
    """How many stars the best text has; the worst has one."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """The columns; there is something to rate."""
        if self.most < 2:
            raise UserError(f"task.most={self.most}: of fewer than two stars there is nothing to learn")
        return super().describe(train, columns)

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """Stars become 0 to 1."""
        whole = super().encoder(rows, tokenizer, facts, max_length)

        def read(row: dict[str, Any], index: int) -> tuple[list[str], float]:
            texts, stars = whole.read(row, index)
            if not 1 <= stars <= self.most:
                raise UserError(f"row {index}: {stars:g} stars, where there are 1 to {self.most}. See task.most")
            return texts, (stars - 1) / (self.most - 1)

        return replace(whole, read=read)

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Whether better texts are rated better, and how far ratings are off, where all stars are 1."""
        return ("spearman", "mae")

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Stars of each text."""
        for answer in super().predict(model, tokenizer, inputs, options):
            yield {"input": answer["input"], "stars": round(1 + answer["value"] * (self.most - 1), 1)}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two texts, the worst and the best there can be."""
        made = ((1, "a dull film"), (self.most, "a fine film"))
        return [{columns.get("text", "text"): text, columns.get("label", "label"): stars} for stars, text in made]
