"""Tokens hidden for a model to find again, and words found for the hidden tokens of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune.data.shards import IGNORED
from finetune.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MASKED, REPLACED = 0.8, 0.1
"""Shares of hidden tokens that become the mask token, and a random one; others stay (BERT, arXiv 1810.04805)."""
FOUND = 5


class Masking:
    """A collator that hides tokens, one of each row at least: a row without would have no loss."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        probability: float,
        whole_words: bool,
        seed: Callable[[bytes], int] | None = None,
    ) -> None:
        """Take a seed of each row's own from its bytes, or draw from torch's generator."""
        self.tokenizer, self.probability, self.whole_words, self.seed = tokenizer, probability, whole_words, seed
        # Ids of special tokens, which are never hidden and never put in.
        self.special = np.array(sorted(set(tokenizer.all_special_ids)))
        self.ordinary = np.setdiff1d(np.arange(len(tokenizer)), self.special)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A padded batch with labels."""
        hidden = [self._hidden(np.asarray(row["input_ids"]), np.asarray(row["words"])) for row in rows]
        batch = self.tokenizer.pad({"input_ids": [ids.tolist() for ids, _ in hidden]}, return_tensors="pt")
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for at, (_, own) in enumerate(hidden):
            labels[at, : len(own)] = torch.from_numpy(own)
        return {**batch, "labels": labels}

    def _hidden(self, ids: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids with some of them hidden, and the labels."""
        number = self.seed(ids.tobytes()) if self.seed else int(torch.randint(2**62, ()))
        random = np.random.default_rng(number)
        ordinary = ~np.isin(ids, self.special)
        if not ordinary.any():
            return ids, np.full(len(ids), IGNORED)
        units = words if self.whole_words else np.arange(len(ids))
        known = np.unique(units[ordinary])
        drawn = known[random.random(len(known)) < self.probability]
        chosen = np.isin(units, drawn if len(drawn) else random.choice(known, 1)) & ordinary
        fate = random.random(len(ids))
        shown = np.where(chosen & (fate < MASKED), self.tokenizer.mask_token_id, ids)
        replaced = chosen & (fate >= MASKED) & (fate < MASKED + REPLACED)
        shown[replaced] = random.choice(self.ordinary, int(replaced.sum()))
        return shown, np.where(chosen, ids, IGNORED)


@torch.no_grad()
def filled(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, inputs: Sequence[Any], options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """For each text its mask tokens with the likeliest words and their probabilities."""
    column, cut = options.get("columns", {}).get("text", "text"), options.get("max_length")
    for number, item in enumerate(inputs):
        text = item.get(column) if isinstance(item, dict) else item
        if not isinstance(text, str) or tokenizer.mask_token not in text:
            raise UserError(f"input {number}: {item!r} is no text with {tokenizer.mask_token} in it")
        encoded = tokenizer(text, return_tensors="pt", truncation=cut is not None, max_length=cut).to(model.device)
        places = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten()
        best = model(**encoded).logits[0, places].float().softmax(-1).topk(FOUND)
        yield {
            "input": item,
            "masks": [
                {str(tokenizer.decode([token])).strip(): round(p, 4) for token, p in zip(ids, shares, strict=True)}
                for ids, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ],
        }
