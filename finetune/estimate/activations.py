"""What autograd keeps of one forward pass, counted on fake tensors: the real architecture and shapes, no memory.

One formula for all architectures would be wrong for most: what is kept depends on how a norm is written, where
autocast casts, which inputs need gradients. So the skeleton's own forward runs on tensors that have a shape and no
numbers (torch's FakeTensorMode), and autograd's hooks tell what it saves. A second for a model of 8 B weights.

Knows torch and the layers of transformers; knows nothing of optimizers, recipes, or how much memory there is.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune.estimate.kernels import Kernels, storage
from finetune.estimate.setup import Shapes


@dataclass(frozen=True)
class Layer:
    """Bytes of one layer: what enters it, what it keeps inside for its backward pass, its largest kept tensor."""

    entering: int
    inside: int
    widest: int


@dataclass(frozen=True)
class Kept:
    """What lives from the forward to the backward pass, in bytes, and the sizes of both ends in numbers."""

    layers: tuple[Layer, ...]
    outside: int
    """By what is not a layer: embeddings, the last norm, the input of the head."""
    casts: int
    """Copies of weights in the dtype of the products, which autocast makes and keeps until the forward pass ends."""
    head_casts: int
    """Those of them outside the layers."""
    logits: int
    """Numbers in what the loss is computed from."""
    hidden: int
    """Numbers in what enters the last layer."""

    def whole(self) -> int:
        """Everything inside every layer: no activation checkpointing."""
        return self.outside + sum(layer.inside for layer in self.layers)

    def entrances(self) -> int:
        """What enters each layer, to compute it again from: activation checkpointing."""
        return self.outside + sum(layer.entering for layer in self.layers)

    def scaled(self, share: float) -> "Kept":
        """With another number of rows: all of it but the casts is per row."""
        layers = tuple(Layer(*(int(size * share) for size in vars(layer).values())) for layer in self.layers)
        sizes = (int(size * share) for size in (self.outside, self.logits, self.hidden))
        outside, logits, hidden = sizes
        return Kept(layers, outside, self.casts, self.head_casts, logits, hidden)


class Untraceable(Exception):
    """The forward pass asks for values, which fake tensors do not have, or for inputs that are not known."""


def trace(model: Any, weights: Mapping[str, torch.Tensor], given: Mapping[str, Any], kernels: Kernels) -> Kept:
    """Run a skeleton's forward pass and count what autograd saves.

    Args:
        model: on the meta device, with its adapter.
        weights: by name, tensors on the meta device in the dtype each will have.
        given: what the forward pass takes (`inputs`).

    Raises:
        Untraceable: the architecture cannot run without values.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    state = {name: _faked(mode, tensor) for name, tensor in {**dict(model.named_buffers()), **weights}.items()}
    kernels.know(state)
    ledger = _Ledger(kernels)
    training = model.training
    try:
        model.train()
        with mode, kernels.running(), ledger.listening(model):
            faked = {name: _faked(mode, x) if torch.is_tensor(x) else x for name, x in given.items()}
            outputs = torch.func.functional_call(model, state, kwargs=faked, tie_weights=True)
            return ledger.kept(_logits(outputs))
    except Exception as error:  # Whatever the model's code raises where there are no values.
        raise Untraceable(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    finally:
        model.train(training)


def _faked(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    fake = FakeTensor(mode, tensor.detach().to("meta"), torch.device("cpu"))
    return fake.requires_grad_(tensor.requires_grad)


def inputs(model: Any, rows: int, length: int, masked: bool, target: int | None = None) -> dict[str, Any]:
    """What the forward pass takes, filled with zeros.

    Args:
        length: tokens, or samples of sound where the model takes those; an image has the model's own size.
        target: tokens that a decoder of its own writes; None takes `length`.
        masked: whether rows are padded. A row alone is not, and a packed batch has no mask.

    Raises:
        Untraceable: the model's main input is of another kind.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids = torch.zeros(rows, target or length, dtype=torch.long)
    given = {**_main_input(base, rows, length), "use_cache": False, "decoder_input_ids": ids}
    if masked and "input_ids" in given:
        given["attention_mask"] = torch.ones_like(given["input_ids"])
    known = inspect.signature(base.forward).parameters
    return {name: value for name, value in given.items() if name in known}


def of_shapes(shapes: Shapes, rows: int) -> dict[str, Any]:
    """What the forward pass takes, as a collator of the task shapes it."""
    return {name: torch.zeros(rows, *shape, dtype=getattr(torch, kind)) for name, (shape, kind) in shapes.items()}


def _main_input(base: Any, rows: int, length: int) -> dict[str, Any]:
    config, main = base.config, base.main_input_name
    if main == "pixel_values":
        return {main: torch.zeros(rows, config.num_channels, config.image_size, config.image_size)}
    if main == "input_values":
        return {main: torch.zeros(rows, length)}
    if main == "input_features":
        # The encoders of speech halve the frames once: twice their positions enter.
        return {main: torch.zeros(rows, config.num_mel_bins, 2 * config.max_source_positions)}
    if main != "input_ids":
        raise Untraceable(f"inputs of the kind {main} are not known here")
    ids = torch.zeros(rows, length, dtype=torch.long)
    return {main: ids[:, None] if type(base).__name__.endswith("ForMultipleChoice") else ids}


def _logits(outputs: Any) -> int:
    """The output a loss is made of: logits where there are some, else the largest output."""
    logits = outputs.get("logits") if isinstance(outputs, dict) else None
    leaves = [leaf for leaf in tree_leaves(logits if logits is not None else outputs) if torch.is_tensor(leaf)]
    return max((leaf.numel() for leaf in leaves), default=0)


class _Ledger:
    """Storages that autograd saved, each counted once, under the layer that was running."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self.seen: dict[int, torch.Tensor] = {}
        self.entered: dict[int, torch.Tensor] = {}
        self.depth, self.outside, self.hidden, self.casts_before = 0, 0, 0, 0
        self.layers: list[list[int]] = []
        self.layer_casts = 0
        """Bytes of the casts made while a layer ran."""

    @contextmanager
    def listening(self, model: Any) -> Iterator[None]:
        """Hear of everything that is saved, and of every layer that starts and ends."""
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        handles = [layer.register_forward_pre_hook(self._enter, with_kwargs=True) for layer in layers]
        handles += [layer.register_forward_hook(self._leave) for layer in layers]
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def kept(self, logits: int) -> Kept:
        """The count."""
        layers = tuple(Layer(*layer) for layer in self.layers)
        casts = sum(map(_bytes, self.kernels.casts.values()))
        return Kept(layers, self.outside, casts, casts - self.layer_casts, logits, self.hidden)

    def _enter(self, module: Any, args: Any, kwargs: Any) -> None:
        """What a layer would be computed again from. Angles and masks enter every layer and exist once."""
        self.depth += 1
        if self.depth > 1:
            return
        given = [leaf for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)]
        new = {storage(leaf): leaf for leaf in given if storage(leaf) not in self.entered}
        self.entered.update(new)
        self.hidden = given[0].numel() if given else 0
        self.casts_before = len(self.kernels.casts)
        self.layers.append([sum(map(_bytes, new.values())), 0, 0])

    def _leave(self, module: Any, args: Any, output: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.layer_casts += sum(map(_bytes, list(self.kernels.casts.values())[self.casts_before :]))

    def _save(self, tensor: torch.Tensor) -> torch.Tensor:
        key = storage(tensor)
        if key not in self.kernels.storages and key not in self.seen:
            self.seen[key] = tensor
            self._count(_bytes(tensor))
        return tensor

    def _count(self, size: int) -> None:
        if self.depth == 0:
            self.outside += size
            return
        layer = self.layers[-1]
        layer[1], layer[2] = layer[1] + size, max(layer[2], size)


def _bytes(tensor: torch.Tensor) -> int:
    """Of the whole storage: a view keeps all of it alive."""
    return tensor.untyped_storage().nbytes()
