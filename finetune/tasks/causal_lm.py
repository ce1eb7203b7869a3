"""Causal language modelling: plain text, to go on training a model or to train one from the beginning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import Encoder, Facts
from finetune.tasks.language_model import NextToken

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(kw_only=True)
class CausalLM(NextToken):
    """Every token is trained; each text ends with the end-of-sequence token. `packing=wrapped` fills every row."""

    unread: ClassVar[dict[str, str]] = {
        "tokenizer.chat_template": "texts are read as they are, not rendered",
        "evaluation.generation": "a text asks nothing that could be answered",
    }

    name: str = "causal_lm"
    overlong: Literal["split", "truncate_end", "drop", "error"] = "split"
    """What becomes of a text of more than `tokenizer.max_length` tokens."""

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
