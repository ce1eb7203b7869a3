"""The loss of a causal model without all of its logits: TRL's fused head, which its trainers compute their losses by.

It projects tiles of tokens onto slices of the vocabulary; 8,192 tokens of a vocabulary of 128,256 are 4.2 GB of logits
in fp32, several times over. It knows by name how architectures scale and cap their logits, so that it is held against
the model's own head. Knows models; knows no task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from finetune.errors import UserError
from finetune.models.adapter import is_adapted
from finetune.models.precision import autocast

PROBE = (2, 16)
"""Rows and tokens of what both heads are asked about."""
CLOSE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2}
"""Largest difference of a log-probability, as a share of the largest one: what rounding does, and no scale or cap."""


@contextmanager
def fused(model: Any, *outputs: str) -> Iterator[None]:
    """Within it, `model(..., labels=labels, fused_lm_head=True)` gives TRL's `FusedCausalLMOutput`.

    Args:
        outputs: what is computed of each token besides `log_probs`; `is_top1` is whether it is the likeliest.
    """
    from trl.trainer.utils import add_fused_lm_head  # a second of imports, which other tasks do without

    own = model.get_base_model() if is_adapted(model) else model
    before = vars(own).get("forward")
    add_fused_lm_head(own, outputs=("log_probs", *outputs))
    try:
        yield
    finally:
        del own.forward
        if before is not None:
            own.forward = before


def scored(model: Any, batch: dict[str, torch.Tensor]) -> SimpleNamespace:
    """The loss of a batch; as `logits` whether each token from the second on is the likeliest, (rows, tokens - 1)."""
    with fused(model, "is_top1"):
        found = model(**batch, fused_lm_head=True)
    # Prompt tuning puts positions before a row.
    return SimpleNamespace(loss=found.loss, logits=found.is_top1[:, 1 - batch["labels"].shape[1] :])


@torch.no_grad()
def check(model: Any, compute: str) -> str:
    """Prove that the fused head gives what the model's own does.

    Args:
        compute: the dtype of matrix products.
    Returns:
        What was found, in words.
    Raises:
        UserError: it gives something else, so a loss by it would be that of another model.
    """
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, PROBE, generator=torch.Generator().manual_seed(0)).to(model.device)
    was_training = model.training
    model.eval()
    with autocast(compute), fused(model):
        found = model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs
        every = model(input_ids=ids).logits[:, :-1].float().log_softmax(-1)
    expected = every.gather(-1, ids[:, 1:, None].to(every.device))[..., 0]
    model.train(was_training)
    far = ((found - expected.to(found.device)).abs().max() / expected.abs().max()).item()
    if far > CLOSE[compute]:
        raise UserError(
            f"{type(model).__name__}: TRL's loss, which never writes all logits down, differs from the model's own by "
            f"{far:.1%}: it does not know how this architecture makes its logits, and would train another model. "
            "task=causal_lm trains by the model's own loss; for other tasks choose another architecture"
        )
    return f"TRL's fused head gives the model's own log-probabilities, but for {far:.1g} of the largest"
