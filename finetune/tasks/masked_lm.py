"""Masked language modelling: words are hidden, and the model finds them again."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import Brought, Encoder, Facts, RowError
from finetune.config.types import Share, Switch
from finetune.errors import UserError
from finetune.tasks.language_model import LanguageModel

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FOUND = 5
"""Words that are answered for each mask."""


@dataclass(kw_only=True)
class MaskedLM(LanguageModel):
    """Plain text. What is hidden is drawn anew each epoch while training, and is always the same while scoring."""

    model_class: ClassVar[str] = "transformers.AutoModelForMaskedLM"
    accuracy: ClassVar[str] = "masked_accuracy"
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

    def settle(self, facts: Facts, tokenizer: PreTrainedTokenizerBase, brought: Brought) -> Facts:
        """Nothing can be hidden without a token that hides it."""
        if tokenizer.mask_token is None:
            raise UserError("task=masked_lm: the tokenizer has no mask token. Write task=causal_lm, or another model")
        if self.whole_word_mask and not tokenizer.is_fast:
            raise UserError("task.whole_word_mask=true needs a fast tokenizer, which says where words begin")
        return facts

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """Token ids and, where words are hidden whole, the number of each token's word."""
        from finetune.data.columns import check, text

        check(facts["columns"], rows.column_names)
        column, special = facts["columns"]["text"], set(tokenizer.all_special_ids)

        def tokenize(texts: Sequence[str], cut: int | None) -> list[dict[str, Any]]:
            encoded = tokenizer(list(texts), truncation=cut is not None, max_length=cut, verbose=False)
            if any(special.issuperset(ids) for ids in encoded["input_ids"]):
                raise RowError("no token that could be hidden")
            found = [{"input_ids": ids} for ids in encoded["input_ids"]]
            if self.whole_word_mask:
                for at, row in enumerate(found):
                    row["words"] = [-1 if word is None else word for word in encoded.word_ids(at)]
            return found

        cut = max_length if self.overlong == "truncate" else None
        return Encoder(lambda row, _: text(row, column), tokenize, overlong=self.overlong, cut=cut)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Hides tokens as the generators of the moment draw."""
        from finetune.data.masking import Masking

        return Masking(tokenizer, self.mlm_probability)

    def scoring_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Hides the same tokens of a row each time, by what is in the row."""
        from finetune.data.masking import Masking

        return Masking(tokenizer, self.mlm_probability, seed=zlib.crc32)

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """The likeliest words for each mask token of a text, with their probabilities."""
        import torch

        from finetune.data.columns import asked

        mask, cut = str(tokenizer.mask_token), options.get("max_length")
        texts = asked(inputs, options.get("columns", {}).get("text", "text"))
        if missing := [number for number, text in enumerate(texts) if mask not in text]:
            raise UserError(f"input {missing[0]}: there is no {mask} in it, which stands for what is to be found")
        for item, text in zip(inputs, texts, strict=True):
            encoded = tokenizer(text, return_tensors="pt", truncation=cut is not None, max_length=cut).to(model.device)
            places = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten()
            with torch.no_grad():
                best = model(**encoded).logits[0, places].float().softmax(-1).topk(FOUND)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            yield {"input": item, "masks": [_words(tokenizer, *pair) for pair in pairs]}


def _words(tokenizer: PreTrainedTokenizerBase, ids: list[int], shares: list[float]) -> dict[str, float]:
    return {str(tokenizer.decode([one])).strip(): round(share, 4) for one, share in zip(ids, shares, strict=True)}
