"""Causal language modelling: plain text, to go on training a model or to train one from the beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import Encoder, Facts, Task

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

USUAL = {"text": ("text", "content", "sentence", "document")}


@dataclass(kw_only=True)
class CausalLM(Task):
    """Every token is trained; each text ends with the end-of-sequence token. `packing=wrapped` fills every row."""

    model_class: ClassVar[str] = "transformers.AutoModelForCausalLM"
    peft_type: ClassVar[str] = "CAUSAL_LM"
    roles: ClassVar[tuple[str, ...]] = ("text",)
    unread: ClassVar[dict[str, str]] = {
        "tokenizer.chat_template": "texts are read as they are, not rendered",
        "evaluation.generation": "a text asks nothing that could be answered",
    }

    name: str = "causal_lm"
    overlong: Literal["split", "truncate_end", "drop", "error"] = "split"
    """What becomes of a text of more than `tokenizer.max_length` tokens."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """The column of texts."""
        from finetune.data.columns import detect

        return {"columns": detect(train.column_names, columns, USUAL)}

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """Token ids, which are the labels as well; whole, whatever the length."""
        from finetune.data.columns import check, text
        from finetune.data.labels import label_text

        check(facts["columns"], rows.column_names)
        column = facts["columns"]["text"]

        def tokenize(texts: Sequence[str], _: int | None) -> list[dict[str, Any]]:
            return [{"input_ids": row.input_ids, "labels": row.labels} for row in label_text(texts, tokenizer)]

        return Encoder(lambda row, _: text(row, column), tokenize, labels="ids", overlong=self.overlong)

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts) -> None:
        """A text that the model writes ends where those it was trained on do."""
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """TRL's, which masks padding by position: the token that pads may be the one that ends a text."""
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        collator: Callable[..., dict[str, Any]] = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
        return collator

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """Tokens that are predicted."""
        from finetune.data import next_token

        return next_token.trained(batch["labels"])

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Predicted and true token at each position."""
        from finetune.data import next_token

        return next_token.outcomes(logits, batch["labels"])

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Share of tokens predicted exactly; loss and perplexity are always reported."""
        return ("accuracy",)

    def summarize(self, scores: dict[str, float]) -> dict[str, float]:
        """Perplexity beside the loss."""
        from finetune.data import next_token

        return next_token.summarized(scores)

    def score(self, facts: Facts) -> tuple[str, bool]:
        """Loss: lower is better."""
        return "loss", False

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """How each text goes on. An input is a text, or a row with the trained column."""
        from finetune.data.columns import asked
        from finetune.models.generate import answers

        texts = asked(inputs, options.get("columns", {}).get("text", "text"))
        given = {"max_new_tokens": options.get("max_new_tokens", 256), **options.get("generation_config", {})}
        for item, answer in zip(inputs, answers(model, tokenizer, texts, given), strict=True):
            yield {"input": item, "text": answer.text, "capped": answer.capped}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two sentences."""
        texts = ("the sun rises in the east", "rain falls in the west")
        return [{columns.get("text", "text"): text} for text in texts]
