"""Heads that say of each token whether it is the first or the last of a stretch: their logits, and their loss.

Knows tensors. Knows no texts, and nothing of what a stretch is.
"""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

PAD: dict[str, Any] = {"padding_side": "right", "return_tensors": "pt", "verbose": False}
"""At the end, whatever the usual side: labels are counted from the first token, as positions of some models are."""


def forward(model: Any, batch: dict[str, torch.Tensor]) -> SimpleNamespace:
    """The `logits` of each token to be the first and to be the last, (rows, tokens, 2); with labels, the `loss` too.

    With labels, tokens that pad are -inf: transformers' own loss lets them compete, and is another in another batch.

    Args:
        batch: `labels` are the first and the last token of each row, (rows, 2).
    """
    output = model(**{name: value for name, value in batch.items() if name != "labels"})
    logits = torch.stack([output.start_logits, output.end_logits], -1).float()
    if "labels" not in batch:
        return SimpleNamespace(logits=logits)
    if "attention_mask" in batch:
        logits = logits.masked_fill(batch["attention_mask"][..., None] == 0, -torch.inf)
    return SimpleNamespace(logits=logits, loss=cross_entropy(logits, batch["labels"]))


def collate(tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows as one padded batch, labels as `forward` takes them: what is marked of a row is one stretch."""
    inputs = [{name: list(map(int, row[name])) for name in row if name != "labels"} for row in rows]
    marked = [torch.as_tensor(row["labels"]).ge(0).nonzero()[[0, -1], 0] for row in rows]
    return {**tokenizer.pad(inputs, **PAD), "labels": torch.stack(marked)}


@torch.no_grad()
def logits(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, list[int]]], size: int
) -> Iterator[Any]:
    """The logits of each row in turn as an array, asked in batches of `size` rows."""
    for start in range(0, len(rows), size):
        batch = tokenizer.pad(list(rows[start : start + size]), **PAD).to(model.device)
        yield from forward(model, dict(batch)).logits.cpu().numpy()
