"""Tokens hidden for a model to find again. Knows token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune.config.task import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED, REPLACED = 0.8, 0.1
"""Shares of hidden tokens that become the mask token, and a random one; others stay (BERT, arXiv 1810.04805)."""


class Masking:
    """A collator that hides tokens, one of each row at least: a row without would have no loss.

    Rows with a column `words`, the number of each token's word, have words hidden whole.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        probability: float,
        seed: Callable[[bytes], int] | None = None,
    ) -> None:
        """Take a seed of each row's own from its bytes, or draw from torch's generator."""
        self.tokenizer, self.probability, self.seed = tokenizer, probability, seed
        # Ids of special tokens, which are never hidden and never put in.
        self.special = np.array(sorted(set(tokenizer.all_special_ids)))
        self.ordinary = np.setdiff1d(np.arange(len(tokenizer)), self.special)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch with labels, both padded on the right."""
        hidden = [self._hidden(row) for row in rows]
        ids = {"input_ids": [shown.tolist() for shown, _ in hidden]}
        batch = self.tokenizer.pad(ids, padding_side="right", return_tensors="pt")
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for at, (_, own) in enumerate(hidden):
            labels[at, : len(own)] = torch.from_numpy(own)
        return {**batch, "labels": labels}

    def _hidden(self, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Ids with some of them hidden, and the labels."""
        ids = np.asarray(row["input_ids"])
        number = self.seed(ids.tobytes()) if self.seed else int(torch.randint(2**62, ()))
        random = np.random.default_rng(number)
        ordinary = ~np.isin(ids, self.special)
        units = np.asarray(row["words"]) if "words" in row else np.arange(len(ids))
        known = np.unique(units[ordinary])
        drawn = known[random.random(len(known)) < self.probability]
        chosen = np.isin(units, drawn if len(drawn) else random.choice(known, 1)) & ordinary
        fate = random.random(len(ids))
        shown = np.where(chosen & (fate < MASKED), self.tokenizer.mask_token_id, ids)
        replaced = chosen & (fate >= MASKED) & (fate < MASKED + REPLACED)
        shown[replaced] = random.choice(self.ordinary, int(replaced.sum()))
        return shown, np.where(chosen, ids, IGNORED)
