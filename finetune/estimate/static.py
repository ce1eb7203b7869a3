"""What a run keeps on a device whatever its batch: weights, gradients, the optimizer's states. Knows sums alone."""

from dataclasses import dataclass
from typing import Any

from finetune.estimate import weights as sizes
from finetune.estimate.setup import Setup

Parts = dict[str, int]
"""Part to bytes."""


@dataclass(frozen=True)
class Static:
    """Bytes on one device that do not depend on the batch, and what a gradient of the head is."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    step: int
    """What a step of the optimizer needs for its arithmetic."""
    unpacked: int
    """The largest quantized weight, unpacked for its product."""
    head: int
    """Numbers in the output embeddings; 0 where there are none."""
    head_trained: bool
    tied: bool
    """Whether the output embeddings are the input embeddings."""
    itemsize: int
    """Bytes of a trained number."""
    upcasts: bool = True
    """Whether the model turns logits to fp32 for the loss: encoder-decoders take cross-entropy as they are."""
    reference: int = 0
    """The weights again, as they were; an adapter that is switched off needs no copy."""

    @property
    def head_gradient(self) -> int:
        """Bytes."""
        return self.head * self.itemsize if self.head_trained else 0


def static_of(model: Any, setup: Setup) -> Static:
    """Add them up over a skeleton's weights."""
    adapted, shards, weights = is_adapted(model), setup.shards, sizes.of(model, setup)
    base = model.get_base_model() if adapted else model
    trained = [weight for weight in weights if weight.trained]
    state = sizes.state_bytes(setup.optim, setup.optim_args)
    head, entrance = embeddings(base)
    head_weight = getattr(head, "weight", None)
    paged = setup.optim.startswith("paged_")
    return Static(
        weights=sum(w.bytes for w in weights if not (adapted and w.trained)) // shards.weights,
        adapter=sum(w.bytes for w in trained if adapted) // shards.weights,
        gradients=sum(w.bytes for w in trained) // shards.gradients,
        optimizer=0 if paged or state is None else int(sum(map(state, trained))) // shards.optimizer,
        step=sizes.step_bytes(setup.optim, setup.device, trained) // shards.optimizer,
        unpacked=max((w.numel * w.dtype.itemsize for w in weights if w.bits), default=0),
        head=0 if head_weight is None else head_weight.numel(),
        head_trained=head_weight is not None and head_weight.requires_grad,
        tied=head_weight is not None and head_weight is getattr(entrance, "weight", None),
        itemsize=4 if setup.trainable == "fp32" else 2,
        reference=0 if adapted or not setup.reference else sum(w.bytes for w in weights) // shards.weights,
        upcasts=not getattr(base.config, "is_encoder_decoder", False),
    )


def embeddings(base: Any) -> tuple[Any, Any]:
    """The output's and the input's; models of images and sound have none of either, and some say so by raising."""
    found = []
    for read in (base.get_output_embeddings, base.get_input_embeddings):
        try:
            found.append(read())
        except (NotImplementedError, AttributeError):
            found.append(None)
    return found[0], found[1]


def is_adapted(model: Any) -> bool:
    """Whether the model carries an adapter."""
    return hasattr(model, "get_base_model")
