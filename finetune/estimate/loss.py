"""What computing the loss takes: the logits over the vocabulary, their copies, or the tiles that replace them.

Knows sizes; knows nothing of tasks. It is often the peak: 8,192 tokens of a vocabulary of 128,256 are 12.6 GB.
"""

from collections.abc import Iterator

from finetune.estimate.activations import Kept
from finetune.estimate.setup import Setup
from finetune.estimate.static import Parts, Static

TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""`TOKEN_CHUNK_SIZE` of trl/kernels/chunked_logprob.py, `_CHUNKED_LOGPROB_CHUNK_SIZE` of trl/trainer/utils.py."""
FOLDED = {"forward": 4, "backward": 10}
"""Tensors in fp32 of the size of a tile that are there at once where torch folds it, op after op, and no kernel of
Triton's does: `_forward_tile` and `_backward_tile` of trl/kernels/chunked_logprob.py."""
FORWARD, BACKWARD = "forward of the loss", "backward of the loss"


def loss_moments(static: Static, kept: Kept, setup: Setup) -> Iterator[tuple[str, Parts]]:
    """The parts of the loss alone, at its forward and at its backward."""
    inner = kept.casts - kept.head_casts
    # Autocast's cache lives until the forward pass ends, loss included; then only the graph keeps casts.
    after = 0 if setup.checkpointing else inner
    if setup.loss == "logits" or not static.head:
        forward, backward = _whole(static, kept.logits, setup)
        yield FORWARD, {"logits": forward, "casts": kept.casts}
        yield BACKWARD, {"logits": backward, "casts": after + kept.head_casts}
        return
    tiles = {
        way: _tiles(static, kept, setup, way) if setup.loss == "chunked" else _liger(kept, setup) for way in FOLDED
    }
    yield FORWARD, {"logits": tiles["forward"], "casts": inner}
    yield BACKWARD, {"logits": tiles["backward"] + _chunked_gradients(static, kept, setup), "casts": after}


def scoring(static: Static, kept: Kept, setup: Setup) -> Parts:
    """The parts of the loss of rows that are scored; `kept` is of as many as are."""
    if setup.loss == "chunked" and static.head:
        return {"logits": _tiles(static, kept, setup, "forward"), "casts": kept.casts - kept.head_casts}
    return {"logits": _whole(static, kept.logits, setup)[0], "casts": kept.casts}


def _whole(static: Static, logits: int, setup: Setup) -> tuple[int, int]:
    """Logits in the dtype of products, in fp32, and their log-softmax; then it, its gradient, and the logits'.

    `ForCausalLMLoss` of transformers/loss/loss_utils.py upcasts; cross-entropy keeps one fp32 tensor and needs two
    more to go backward.
    """
    if not static.upcasts and setup.compute == "fp32" and setup.trainable != "fp32":
        return logits * 4, logits * 6
    upcast = 4 if setup.compute == "fp32" and setup.trainable == "fp32" else 2 + 4
    return logits * (upcast + 4), logits * 12


def _tiles(static: Static, kept: Kept, setup: Setup, way: str) -> int:
    """One tile of logits with what it is folded by, and the slice of the head that makes it."""
    size = 4 if setup.compute == "fp32" else 2
    tokens, width = _projected(kept, setup)
    numbers = min(tokens, TILE_TOKENS) * min(TILE_VOCABULARY, static.head // width)
    tile = numbers * (size if setup.has_triton else 4 * FOLDED[way])
    return tile + min(TILE_VOCABULARY * width, static.head) * size


def _chunked_gradients(static: Static, kept: Kept, setup: Setup) -> int:
    """Sums in fp32: the hidden states' gradient, and the head's where it is trained."""
    return int(4 * kept.hidden * setup.projected) + (4 * static.head if static.head_trained else 0)


def _liger(kept: Kept, setup: Setup) -> int:
    """A chunk of logits about as large as the hidden states, and its gradient.

    github.com/linkedin/Liger-Kernel, ops/fused_linear_cross_entropy.py.
    """
    return kept.hidden * (4 if setup.compute == "fp32" else 2) * 2


def _projected(kept: Kept, setup: Setup) -> tuple[int, int]:
    """Tokens that meet the head, and the width of a hidden state."""
    tokens = setup.rows * setup.length
    return max(1, int(tokens * setup.projected)), max(1, kept.hidden // max(1, tokens))
