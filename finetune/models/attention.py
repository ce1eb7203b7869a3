"""Whether documents that share a row see each other, asked of the model itself. Knows no data and no trainer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from finetune.errors import UserError
from finetune.models.precision import autocast

IMPLEMENTATIONS = ("sdpa", "flash_attention_2", "eager", "flex_attention")
"""What is offered instead of an implementation that leaks, in this order; flex_attention trains on a GPU only."""
LENGTHS = (7, 5, 9)
"""Tokens of the documents that are tried."""

Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]
Collator = Callable[[str], Collate]
"""From an attention implementation to how packed rows become a batch for it."""


def check_isolated(model: PreTrainedModel, collator: Collator, compute: str) -> str:
    """Prove that no document of a packed row moves another's logits, with the model and collator that are trained.

    Args:
        compute: the dtype of matrix products.
    Returns:
        What was found, in words.
    Raises:
        UserError: a document sees another; an implementation that would do is named, where one is installed.
    """
    used = str(model.config._attn_implementation)
    moved = leak(model, collator(used), compute)
    if not moved:
        return f"no logit of a document moves when another one changes ({used})"
    would_do = next((name for name in IMPLEMENTATIONS if name != used and _does(model, name, collator, compute)), None)
    hint = f"model.attn_implementation={would_do}" if would_do else "packing=none"
    raise UserError(
        f"packing: with model.attn_implementation={used} the documents of a row see each other: changing one moves a "
        f"logit of another by {moved:.2g}. Write {hint}"
    )


@torch.no_grad()
def leak(model: PreTrainedModel, collate: Collate, compute: str) -> float:
    """The largest change of a logit of one document when another one changes, each of them in turn.

    Raises:
        UserError: a document's own logits do not move either, so the comparison says nothing.
    """
    plain = _logits(model, collate, compute, changed=None)
    moved = []
    for changed, (begin, end) in enumerate(_spans()):
        difference = (_logits(model, collate, compute, changed) - plain).abs().amax(-1)
        if not difference[begin:end].any():
            raise UserError(
                "packing: the model's logits do not depend on its input, so documents cannot be told apart"
            )
        moved.append(torch.cat([difference[:begin], difference[end:]]).max().item())
    return max(moved)


def _spans() -> list[tuple[int, int]]:
    ends = np.cumsum(LENGTHS).tolist()
    return list(zip([0, *ends], ends, strict=False))


def _logits(model: PreTrainedModel, collate: Collate, compute: str, changed: int | None) -> torch.Tensor:
    """Logits of one packed row, (tokens, vocabulary); dropout falls on the same places each time."""
    batch = collate([_row(model.config.get_text_config().vocab_size, changed)])
    inputs = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
        if name != "labels"
    }
    with torch.random.fork_rng(), autocast(compute):
        torch.manual_seed(0)
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits[0, -sum(LENGTHS) :].float()


def _row(vocabulary: int, changed: int | None) -> dict[str, Any]:
    """A packed row of made-up documents, one of them with other tokens."""
    ids = np.arange(sum(LENGTHS)) * 7 % vocabulary
    if changed is not None:
        begin, end = _spans()[changed]
        ids[begin:end] = (ids[begin:end] + 1 + np.arange(end - begin)) % vocabulary
    return {"input_ids": ids, "labels": ids.copy(), "seq_lengths": np.array(LENGTHS)}


def _does(model: PreTrainedModel, name: str, collator: Collator, compute: str) -> bool:
    """Whether another implementation is installed and keeps documents apart; the model is left as it was."""
    used = model.config._attn_implementation
    try:
        model.set_attn_implementation(name)
        return not leak(model, collator(name), compute)
    except (ImportError, ValueError, RuntimeError, NotImplementedError):
        return False
    finally:
        model.set_attn_implementation(used)
