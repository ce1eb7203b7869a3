"""Pairs of texts as an encoder-decoder learns them: the source's tokens, and the target's as labels.

Knows tokenizers, and no task.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.config.task import IGNORED, NOTES, RowError
from finetune.errors import UserError


@dataclass(frozen=True)
class Encoding:
    """How pairs become ids; a call takes pairs, and the number of tokens at which a source is cut, if it is."""

    tokenizer: Any
    prefix: str
    """What every source begins with."""
    limit: int
    """Tokens a target may have."""
    overlong: str
    """What becomes of a longer one: `truncate`, and it gets no false end, `drop` or `error`."""

    def __call__(self, pairs: Sequence[tuple[str, str]], cut: int | None) -> list[dict[str, Any]]:
        """Ids of each source; ids of its target, with the token that ends it, as labels.

        Raises:
            RowError, UserError: a target is longer than it may be, and is not to be cut.
        """
        sources, targets = [self.prefix + source for source, _ in pairs], [target for _, target in pairs]
        ids = self.tokenizer(sources, truncation=cut is not None, max_length=cut, verbose=False)["input_ids"]
        labels = self.tokenizer(text_target=targets, verbose=False)["input_ids"]
        return [{"input_ids": row, **self._fitted(self._ended(of))} for row, of in zip(ids, labels, strict=True)]

    def _ended(self, ids: list[int]) -> list[int]:
        """Without a token that ends it, a model would not learn to stop."""
        end = self.tokenizer.eos_token_id
        return ids if end is None or end in ids else [*ids, end]

    def _fitted(self, ids: list[int]) -> dict[str, Any]:
        if len(ids) <= self.limit:
            return {"labels": ids, NOTES: []}
        if self.overlong == "error":
            raise UserError(f"a target of {len(ids)} tokens, more than task.max_target_length={self.limit}")
        if self.overlong == "drop":
            raise RowError(f"target longer than {self.limit} tokens")
        # mBART's decoder begins with what a target ends with: its language.
        ends = ids[-1] == self.tokenizer.eos_token_id
        return {
            "labels": ids[: self.limit] if ends else [*ids[: self.limit - 1], ids[-1]],
            NOTES: ["target truncated"],
        }


def collator(tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """From rows with `labels` of their own length to one batch, both sides padded to the longest."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt", verbose=False)
        return {**batch, "labels": labels_of(rows)}

    return collate


def labels_of(rows: list[dict[str, Any]]) -> Any:
    """A tensor of the rows' labels, padded to the longest with what carries no loss; (rows, tokens)."""
    from torch import from_numpy
    from torch.nn.utils.rnn import pad_sequence

    labels = [from_numpy(np.array(row["labels"], np.int64)) for row in rows]
    return pad_sequence(labels, batch_first=True, padding_value=IGNORED)
