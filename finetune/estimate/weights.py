"""Bytes of each weight and of what its optimizer keeps. Knows names and shapes; knows nothing of activations.

Sources: bitsandbytes' NF4 has blocks of 64 weights with a constant each, and the constants' own blocks of 256
(arXiv 2305.14314, section 3); 8-bit optimizers have blocks of 256 (arXiv 2110.02861); what an optimizer keeps is what
its class puts into `state`, with the arguments that `transformers/trainer_optimizer.py` gives it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from finetune.estimate.setup import Setup
from finetune.models.precision import DTYPES

NF4_BLOCK, DOUBLE_BLOCK, OPTIMIZER_BLOCK = 64, 256, 256
SMALLEST_8BIT = 4096
"""Weights of fewer numbers keep 32-bit states, with bitsandbytes as with torchao."""
QUANTIZED_8BIT = 1 + 4 / OPTIMIZER_BLOCK
QUANTIZED_4BIT = 0.5 + 4 / OPTIMIZER_BLOCK


@dataclass(frozen=True)
class Weight:
    """One weight: its shape, what it is stored in, and whether it is trained."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    """What it is multiplied in before autocast: of a quantized weight, the dtype it is unpacked to."""
    trained: bool
    embeds: bool
    bits: float | None = None
    """Of a quantized weight, stored bits a number."""

    @property
    def numel(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """As stored."""
        return math.ceil(self.numel * (self.bits / 8 if self.bits else self.dtype.itemsize))


def of(model: Any, setup: Setup) -> list[Weight]:
    """Every weight of a skeleton, tied ones once."""
    quantized = quantized_names(model, setup.quantization)
    bits = stored_bits(setup.quantization)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    return [
        Weight(
            name,
            tuple(parameter.shape),
            _dtype(parameter, name in quantized, model, setup),
            parameter.requires_grad,
            id(parameter) in embeddings,
            bits if name in quantized else None,
        )
        for name, parameter in model.named_parameters()
    ]


def _dtype(parameter: torch.nn.Parameter, is_quantized: bool, model: Any, setup: Setup) -> torch.dtype:
    if parameter.requires_grad:
        return DTYPES[setup.trainable]
    if is_quantized:
        return DTYPES["bf16" if setup.compute == "fp32" else setup.compute]
    if setup.quantization["method"] != "none":
        return DTYPES[setup.beside_quantized]
    stored = getattr(model.config, "dtype", None) or torch.float32
    return DTYPES.get(setup.frozen, stored)


def quantized_names(model: Any, quantization: dict[str, Any]) -> frozenset[str]:
    """Frozen weights of linear layers, but those transformers leaves alone: heads, tied weights, what must be fp32."""
    if quantization["method"] == "none":
        return frozenset()
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    skipped = quantization.get("llm_int8_skip_modules") or quantization.get("modules_to_not_convert")
    left = HfQuantizer.get_modules_to_not_convert(base, skipped, base._keep_in_fp32_modules)
    weights = {
        id(module.weight)
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
        and not module.weight.requires_grad
        and should_convert_module(name.removesuffix(".base_layer"), left)
    }
    return frozenset(name for name, weight in model.named_parameters() if id(weight) in weights)


def stored_bits(quantization: dict[str, Any]) -> float | None:
    """Bits a quantized number takes with its share of the constants; None where that is not known."""
    method = quantization["method"]
    if method == "bitsandbytes_4bit":
        double = quantization.get("bnb_4bit_use_double_quant", False)
        return 4 + (8 / NF4_BLOCK + 32 / (NF4_BLOCK * DOUBLE_BLOCK) if double else 32 / NF4_BLOCK)
    if method in ("bitsandbytes_8bit", "eetq", "fp8", "fbgemm_fp8"):
        return 8
    bits = quantization.get("bits") or quantization.get("nbits") or {"awq": 4, "mxfp4": 4, "hqq": 4}.get(method)
    group = {"mxfp4": 32}.get(method) or quantization.get("group_size") or 128
    # A 16-bit scale a group, and a zero point of the same size with those that have one; mxfp4 has 8 bits.
    return bits + {"mxfp4": 8}.get(method, 32) / group if bits else None


def state_bytes(optim: str, optim_args: str = "") -> Callable[[Weight], float] | None:
    """What an optimizer keeps for a weight; None where it is not known.

    GaLore's and APOLLO's states depend on ranks, GrokAdamW's and LOMO's are not documented: no guess is made.
    """
    name = optim.removeprefix("paged_").removesuffix("_fused").removesuffix("_xla").removesuffix("_npu")
    if name in EXACT:
        return lambda weight: EXACT[name] * weight.numel * weight.dtype.itemsize
    if name in FP32:
        return lambda weight: FP32[name] * weight.numel * 4
    if name in BLOCKWISE:
        return lambda weight: _blockwise(weight, *BLOCKWISE[name])
    if name in ("sgd", "rmsprop"):
        extra = sum(word in optim_args.replace(" ", "") for word in ("momentum=", "centered="))
        return lambda weight: (extra + (name == "rmsprop")) * weight.numel * weight.dtype.itemsize
    return {"adafactor": _factored, "stable_adamw": _stable}.get(name)


EXACT = {"adamw_torch": 2, "adagrad": 1, "schedule_free_adamw": 2, "schedule_free_radam": 2, "schedule_free_sgd": 1}
"""States of the weight's own shape and dtype."""
FP32 = {"adamw_anyprecision": 2, "adamw_32bit": 2, "ademamix": 3, "ademamix_32bit": 3, "lion_32bit": 1,
        "rmsprop_bnb": 1, "rmsprop_bnb_32bit": 1}  # fmt: skip
"""States in fp32 whatever the weight is in."""
BLOCKWISE = {"adamw_8bit": (2, QUANTIZED_8BIT), "adamw_bnb_8bit": (2, QUANTIZED_8BIT),
             "ademamix_8bit": (3, QUANTIZED_8BIT), "lion_8bit": (1, QUANTIZED_8BIT),
             "rmsprop_bnb_8bit": (1, QUANTIZED_8BIT), "adamw_torch_8bit": (2, QUANTIZED_8BIT),
             "adamw_torch_4bit": (2, QUANTIZED_4BIT)}  # fmt: skip
"""How many states, and the bytes a number of each."""


def _blockwise(weight: Weight, states: int, quantized: float) -> float:
    """Small weights and embeddings keep 32 bits: the Trainer registers embeddings so with bitsandbytes."""
    return states * weight.numel * (4 if weight.numel < SMALLEST_8BIT or weight.embeds else quantized)


def _factored(weight: Weight) -> float:
    """Adafactor: a row and a column for each matrix, no first moment (arXiv 1804.04235)."""
    if len(weight.shape) < 2:
        return 4 * weight.numel
    *stack, rows, columns = weight.shape
    return 4 * math.prod(stack) * (rows + columns)


def _stable(weight: Weight) -> float:
    """AdamW of optimi: two moments, and Kahan's compensation for weights in 16 bits."""
    return (3 if weight.dtype.itemsize == 2 else 2) * weight.numel * weight.dtype.itemsize


def step_bytes(optim: str, device: str, trained: list[Weight]) -> int:
    """What a step of the optimizer needs for its own arithmetic.

    torch's `foreach` way, CUDA's default, takes the roots of all second moments at once; the plain one a weight at a
    time, twice (`torch/optim/adamw.py`). Fused kernels and bitsandbytes' need nothing.
    """
    largest = max((weight.numel * weight.dtype.itemsize for weight in trained), default=0)
    if optim in ("adamw_torch", "adagrad", "rmsprop") and device != "cpu":
        return sum(weight.numel * weight.dtype.itemsize for weight in trained)
    return 0 if "fused" in optim or "bit" in optim or optim == "sgd" else 2 * largest
