"""Memory of one device, estimated part by part and moment by moment, before any weight is loaded.

A peak is not the sum of all parts: gradients are not there yet when the loss is computed, and activations are gone
when the optimizer steps. So each moment of a step lists the parts alive in it, and the peak is the largest moment.

Knows a skeleton and a `Setup`; knows nothing of recipes, of the device asked for, or of what to change.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from finetune.estimate import weights as sizes
from finetune.estimate.activations import Kept, Layer, Untraceable, inputs, of_shapes, trace
from finetune.estimate.kernels import Kernels
from finetune.estimate.loss import loss_moments, scoring
from finetune.estimate.setup import Setup
from finetune.estimate.static import Parts, Static, is_adapted, static_of

CONTEXT = {"cpu": 2**30, "cuda": 3 * 2**28}
"""torch and transformers loaded on a processor; a CUDA context with cuBLAS, which is 0.5 to 0.8 GiB."""
FRAGMENTED = 0.05
"""Of what comes and goes in a step; the allocator cannot use every gap."""


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device."""

    moments: dict[str, Parts]
    """Moment of a step to the parts that are alive in it."""
    reserve: int
    """The context, and what fragmentation wastes."""
    notes: tuple[str, ...] = ()
    """What is not known, and which way the estimate is wrong because of it."""

    @property
    def moment(self) -> str:
        """When the peak comes."""
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def peak(self) -> int:
        """What torch allocates at most: `torch.cuda.max_memory_allocated`."""
        return sum(self.moments[self.moment].values())

    @property
    def needed(self) -> int:
        """What the device must have free."""
        return self.peak + self.reserve

    @property
    def parts(self) -> Parts:
        """The most each part takes at any moment; they do not add up to the peak."""
        names = dict.fromkeys(name for parts in self.moments.values() for name in parts)
        return {name: max(parts.get(name, 0) for parts in self.moments.values()) for name in names}


def estimate(model: Any, setup: Setup) -> Estimate:
    """The memory of a run on each of its devices.

    Args:
        model: a skeleton on the meta device, with its adapter.
    """
    kept, notes = activations(model, setup)
    return account(static_of(model, setup), kept, setup, notes)


def activations(model: Any, setup: Setup) -> tuple[Kept, tuple[str, ...]]:
    """What autograd keeps, and what is to say about it."""
    found = sizes.of(model, setup)
    quantized = frozenset(weight.name for weight in found if weight.bits is not None)
    kernels = Kernels(setup.compute, setup.device, quantized, "8bit" in setup.quantization["method"])
    state = {w.name: torch.empty(w.shape, dtype=w.dtype, device="meta", requires_grad=w.trained) for w in found}
    masked = setup.rows > 1 and setup.attention in ("sdpa", "eager")
    try:
        with _attention(model, setup.attention):
            shaped = setup.shapes and of_shapes(setup.shapes, setup.rows)
            given = shaped or inputs(model, setup.rows, setup.length, masked, setup.target)
            return trace(model, state, given, kernels), ()
    except Untraceable as reason:
        return _by_formula(model.config, setup, str(reason))


def account(static: Static, kept: Kept, setup: Setup, notes: tuple[str, ...] = ()) -> Estimate:
    """Every moment of a step, from what is always there and what autograd keeps."""
    moments = dict(_moments(static, kept, setup))
    lasting = static.weights + static.adapter + static.reference
    passing = max(sum(parts.values()) for parts in moments.values()) - lasting
    reserve = CONTEXT.get(setup.device, CONTEXT["cuda"]) + int(FRAGMENTED * passing)
    return Estimate(moments, reserve, (*notes, *_unknown(kept, setup)))


def _moments(static: Static, kept: Kept, setup: Setup) -> Iterator[tuple[str, Parts]]:
    """The moments a peak can come at, in the order of a step."""
    always = {"weights": static.weights, "adapter": static.adapter, "optimizer": static.optimizer}
    always |= {"reference": static.reference} if static.reference else {}
    # From the second forward pass of a step on, the gradients of the first are there.
    before = static.gradients if setup.accumulation > 1 else 0
    held = kept.entrances() if setup.checkpointing else kept.whole()
    # The head's cast went with the head's backward, and a layer that is computed again makes its own.
    casts = 0 if setup.checkpointing else kept.casts - kept.head_casts
    for name, parts in loss_moments(static, kept, setup):
        yield name, {**always, "gradients": before, "activations": held, **parts}
    again = max((layer.inside for layer in kept.layers), default=0) if setup.checkpointing else 0
    passing = _passing(static, kept, setup) + static.unpacked
    last = {"activations": held + again, "casts": casts, "passing": passing}
    yield "backward of the last layer", {**always, "gradients": max(before, static.head_gradient), **last}
    first = kept.layers[0].inside if kept.layers else 0
    share = (static.gradients - static.head_gradient) // max(1, len(kept.layers))
    there = {"gradients": max(before, static.gradients - share), "activations": kept.outside + first}
    yield "backward of the first layer", {**always, **there, "passing": passing}
    # Tied embeddings get a second gradient where tokens enter, and autograd adds both into a third: measured 3.04
    # times the weight with a vocabulary of 100,000 on torch 2.13.
    doubled = 2 * static.head_gradient if static.tied else 0
    yield "end of the backward pass", {**always, "gradients": static.gradients, "passing": doubled}
    yield from ((name, {**always, **parts}) for name, parts in _scoring(static, kept.scaled(setup.scored), setup))
    if setup.shards.gradients > 1:
        yield "model in one piece", _in_one_piece(static, setup)
    yield "step of the optimizer", {**always, "gradients": static.gradients, "passing": static.step}


def _scoring(static: Static, kept: Kept, setup: Setup) -> Iterator[tuple[str, Parts]]:
    """Rows that are scored, where autograd keeps nothing: one layer at a time, then the loss."""
    entering = max((layer.entering for layer in kept.layers), default=0)
    inside = max((layer.inside for layer in kept.layers), default=kept.outside)
    yield "layers of evaluation", {"activations": entering + inside, "casts": kept.casts}
    yield "loss of evaluation", {"activations": entering, **scoring(static, kept, setup)}


def _in_one_piece(static: Static, setup: Setup) -> Parts:
    """After the last step: the first process holds the whole trained model beside its share, to score and to save it.

    Before the first one each process reads the whole base, which is less.
    """
    both = setup.shards.weights + 1
    optimizer = static.optimizer if setup.shards.kept else 0
    return {"weights": static.weights * both, "adapter": static.adapter * both, "optimizer": optimizer}


def _passing(static: Static, kept: Kept, setup: Setup) -> int:
    """Gradients on their way through a layer: two of its widest tensor at a time.

    An adapter in fp32 under autocast turns what enters it to fp32 and its gradient back: as much again.
    """
    widest = max((layer.widest for layer in kept.layers), default=0)
    casts_adapter = static.adapter > 0 and setup.trainable == "fp32" and setup.compute != "fp32"
    return widest * (4 if casts_adapter else 2)


def _unknown(kept: Kept, setup: Setup) -> Iterator[str]:
    """What the estimate leaves out, said."""
    method = setup.quantization["method"]
    if method != "none" and sizes.stored_bits(setup.quantization) is None:
        yield f"quantization={method}: its bits are not known, so weights count in 16 bits: less will be needed"
    if sizes.state_bytes(setup.optim, setup.optim_args) is None:
        yield f"trainer.optim={setup.optim}: what it keeps is not known and not counted: more will be needed"
    if setup.optim.startswith("paged_"):
        yield f"trainer.optim={setup.optim}: its states move to the host's memory when the device is full"
    if setup.checkpointing and not kept.layers:
        yield "the architecture has no layers that transformers could checkpoint: activations count in full"


def _by_formula(config: Any, setup: Setup, reason: str) -> tuple[Kept, tuple[str, ...]]:
    """Bytes by equation 2 of arXiv 2205.05198, without scores: 34 a token, hidden number and layer in 16 bits."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    hidden, count = getattr(text, "hidden_size", None), getattr(text, "num_hidden_layers", None)
    if not hidden or not count:
        return Kept((), 0, 0, 0, 0, 0), (f"activations are not counted ({reason}): more will be needed",)
    tokens, itemsize = setup.rows * setup.length, 4 if setup.compute == "fp32" else 2
    stream = tokens * hidden
    layer = Layer(stream * itemsize, 17 * stream * itemsize, 4 * stream * itemsize)
    kept = Kept((layer,) * count, stream * itemsize, 0, 0, tokens * (getattr(text, "vocab_size", 0) or 0), stream)
    return kept, (f"activations by the formula for a plain transformer, which can be far off ({reason})",)


@contextmanager
def _attention(model: Any, wanted: str) -> Iterator[None]:
    """The skeleton's attention as the run will have it, as far as memory differs."""
    base = model.get_base_model() if is_adapted(model) else model
    before = base.config._attn_implementation
    name = "eager" if wanted == "eager" else "sdpa"
    try:
        if before != name and (before != "eager" or wanted != "sdpa"):
            base.set_attn_implementation(name)
        yield
    finally:
        if base.config._attn_implementation != before:
            base.set_attn_implementation(before)
