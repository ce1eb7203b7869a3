"""Masked language modelling: words are hidden, and the model finds them again."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import Brought, Encoder, Facts, RowError, Task
from finetune.config.types import Share, Switch
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

USUAL = {"text": ("text", "sentence", "content", "document")}


@dataclass(kw_only=True)
class MaskedLM(Task):
    """Plain text. What is hidden is drawn anew each epoch while training, and is always the same while scoring."""

    model_class: ClassVar[str] = "transformers.AutoModelForMaskedLM"
    roles: ClassVar[tuple[str, ...]] = ("text",)
    unread: ClassVar[dict[str, str]] = {
        "tokenizer.chat_template": "texts are read as they are, not rendered",
        "evaluation.generation": "the model writes nothing",
    }

    name: str = "masked_lm"
    mlm_probability: Share = 0.15
    """The share of tokens that are hidden."""
    whole_word_mask: Switch = False
    """Hide all pieces of a word together."""
    overlong: Literal["truncate", "drop", "error"] = "truncate"
    """What becomes of a row of more than `tokenizer.max_length` tokens; each is counted."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """The column of texts."""
        from finetune.data.columns import detect

        return {"columns": detect(train.column_names, columns, USUAL)}

    def settle(self, facts: Facts, tokenizer: PreTrainedTokenizerBase, brought: Brought) -> Facts:
        """Nothing can be hidden without a token that hides it."""
        if tokenizer.mask_token is None:
            raise UserError("task=masked_lm: the tokenizer has no mask token. Write task=causal_lm, or another model")
        if self.whole_word_mask and not tokenizer.is_fast:
            raise UserError("task.whole_word_mask=true needs a fast tokenizer, which says where words begin")
        return facts

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """Token ids, and of each token the number of its word."""
        from finetune.data.columns import check

        check(facts["columns"], rows.column_names)
        column = facts["columns"]["text"]

        def read(row: dict[str, Any], _: int) -> str:
            if not isinstance(row[column], str) or not row[column].strip():
                raise RowError("no text")
            return str(row[column])

        def tokenize(items: Sequence[str], cut: int | None) -> list[dict[str, Any]]:
            encoded = tokenizer(list(items), truncation=cut is not None, max_length=cut, verbose=False)
            words = [
                encoded.word_ids(at) if tokenizer.is_fast else encoded["input_ids"][at] for at in range(len(items))
            ]
            return [
                {"input_ids": ids, "words": [-1 if word is None else word for word in of_row]}
                for ids, of_row in zip(encoded["input_ids"], words, strict=True)
            ]

        return Encoder(read, tokenize, overlong=self.overlong, cut=max_length if self.overlong == "truncate" else None)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Hides tokens as the generators of the moment draw."""
        from finetune.data.masking import Masking

        return Masking(tokenizer, self.mlm_probability, self.whole_word_mask)

    def scoring_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Hides the same tokens of a row each time, by what is in the row."""
        from finetune.data.masking import Masking

        return Masking(tokenizer, self.mlm_probability, self.whole_word_mask, seed=zlib.crc32)

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """Hidden tokens."""
        return int((batch["labels"] != -100).sum())

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Predicted and true token where one is hidden."""
        hidden = batch["labels"] != -100
        return logits.argmax(-1)[hidden], batch["labels"][hidden]

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Share of hidden tokens that are found; loss and perplexity are always reported."""
        return ("accuracy",)

    def summarize(self, scores: dict[str, float]) -> dict[str, float]:
        """Perplexity follows from the loss; accuracy is of hidden tokens."""
        named = {"masked_accuracy" if name == "accuracy" else name: value for name, value in scores.items()}
        return {**named, "perplexity": math.exp(min(scores["loss"], 100.0))}

    def score(self, facts: Facts) -> tuple[str, bool]:
        """Loss: lower is better."""
        return "loss", False

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Any:
        """The likeliest words for each mask token of a text."""
        from finetune.data.masking import filled

        return filled(model, tokenizer, inputs, options)

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two sentences."""
        return [
            {columns.get("text", "text"): text} for text in ("the sun rises in the east", "rain falls in the west")
        ]
