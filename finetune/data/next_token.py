"""What a causal language model is scored by: the token that comes next. Knows logits and labels, no texts.

The first token of a row is predicted from nothing, so it is never in the loss.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from finetune.data.shards import IGNORED

if TYPE_CHECKING:
    import torch


def trained(labels: torch.Tensor) -> int:
    """How many tokens the loss of a batch is a mean over.

    Args:
        labels: (rows, tokens), -100 where there is no loss.
    """
    return int((labels[:, 1:] != IGNORED).sum())


def outcomes(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and true token at each trained position, both (trained tokens,).

    Args:
        logits: (rows, tokens, vocabulary).
        labels: (rows, tokens), -100 where there is no loss.
    """
    following = labels[:, 1:]
    kept = following != IGNORED
    return logits[:, :-1].argmax(-1)[kept], following[kept]


def summarized(scores: dict[str, float]) -> dict[str, float]:
    """Perplexity follows from the loss; accuracy is of tokens."""
    named = {"token_accuracy" if name == "accuracy" else name: value for name, value in scores.items()}
    return {**named, "perplexity": math.exp(min(scores["loss"], 100.0))}
