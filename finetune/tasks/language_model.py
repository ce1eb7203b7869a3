"""What language models share as tasks: texts as rows, a loss over tokens, the perplexity that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config.task import IGNORED, Facts, Task

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


USUAL = {"text": ("text", "content", "sentence", "document")}


@dataclass(kw_only=True)
class LanguageModel(Task):
    """Plain text, scored by loss and perplexity, and by the share of tokens that are found."""

    roles: ClassVar[tuple[str, ...]] = ("text",)
    accuracy: ClassVar[str] = "token_accuracy"
    """What that share is called."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """The column of texts."""
        from finetune.data.columns import detect

        return {"columns": detect(train.column_names, columns, USUAL)}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two sentences."""
        texts = ("the sun rises in the east", "rain falls in the west")
        return [{columns.get("text", "text"): text} for text in texts]

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """Tokens with a label."""
        return int((batch["labels"] != IGNORED).sum())

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Predicted and true token where there is a label."""
        labelled = batch["labels"] != IGNORED
        return logits.argmax(-1)[labelled], batch["labels"][labelled]

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Share of tokens found exactly; loss and perplexity are always reported."""
        return ("accuracy",)

    def summarize(self, scores: dict[str, float]) -> dict[str, float]:
        """Perplexity follows from the loss; accuracy is of tokens."""
        named = {self.accuracy if name == "accuracy" else name: value for name, value in scores.items()}
        return {**named, "perplexity": math.exp(min(scores["loss"], 100.0))}

    def score(self, facts: Facts) -> tuple[str, bool]:
        """Loss: lower is better."""
        return "loss", False


@dataclass(kw_only=True)
class NextToken(LanguageModel):
    """A causal model: each token is predicted from those before it, and the first of a row from nothing."""

    model_class: ClassVar[str] = "transformers.AutoModelForCausalLM"
    peft_type: ClassVar[str] = "CAUSAL_LM"

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """TRL's, which masks padding by position: the token that pads may be the one that ends a text."""
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        collator: Callable[..., dict[str, Any]] = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
        return collator

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """Tokens the model predicts."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Predicted and true token at each trained position."""
        following = batch["labels"][:, 1:]
        trained = following != IGNORED
        return logits[:, :-1].argmax(-1)[trained], following[trained]
