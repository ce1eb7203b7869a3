"""Texts that an encoder-decoder learns to write, as token ids. Knows tokenizers, and no task."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from finetune.config.task import IGNORED, RowError
from finetune.errors import UserError


def encode(tokenizer: Any, texts: Sequence[str], limit: int, overlong: str) -> list[tuple[list[int], list[str]]]:
    """Ids of each text with the token that ends it, and what is worth noting of it.

    Args:
        limit: tokens a target may have.
        overlong: what becomes of a longer one: `truncate`, where it gets no false end, `drop` or `error`.
    Raises:
        RowError, UserError: one is longer, and is not to be cut.
    """
    found = tokenizer(text_target=list(texts), verbose=False)["input_ids"]
    return [_fitted(_ended(ids, tokenizer.eos_token_id), tokenizer.eos_token_id, limit, overlong) for ids in found]


def collator(tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """From rows with `labels` of their own length to one batch, both sides padded to the longest."""
    from torch import from_numpy
    from torch.nn.utils.rnn import pad_sequence

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt", verbose=False)
        labels = [from_numpy(np.array(row["labels"], np.int64)) for row in rows]
        return {**batch, "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED)}

    return collate


def _ended(ids: list[int], end: int | None) -> list[int]:
    """Without a token that ends it, a model would not learn to stop."""
    return ids if end is None or end in ids else [*ids, end]


def _fitted(ids: list[int], end: int | None, limit: int, overlong: str) -> tuple[list[int], list[str]]:
    if len(ids) <= limit:
        return ids, []
    reason = f"a target of {len(ids)} tokens, more than task.max_target_length={limit}"
    if overlong == "error":
        raise UserError(reason)
    if overlong == "drop":
        raise RowError(f"target longer than {limit} tokens")
    # mBART's decoder begins with what a target ends with: its language.
    return (ids[:limit] if ids[-1] == end else [*ids[: limit - 1], ids[-1]]), ["target truncated"]
