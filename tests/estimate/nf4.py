"""Linear layers that hold what NF4 of bitsandbytes holds and multiply as its MatMul4Bit, for counting on fake tensors.

transformers decides which layers, peft wraps them in its own 4-bit LoRA and turns the rest to fp32: their own code.
Read from bitsandbytes 0.50: `nn/modules.py` (Linear4bit), `autograd/_functions.py` (MatMul4Bit), `functional.py`
(quantize_4bit), `backends/cuda/ops.py`, where more than 1,536 rows are multiplied by an unpacked weight.
"""

from __future__ import annotations

import math

import bitsandbytes
import torch
from peft import prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig
from transformers.integrations import replace_with_bnb_linear
from transformers.quantizers.base import HfQuantizer

BLOCK, SECOND = 64, 256
"""Weights that share a constant, and constants that share one of their own."""


class Packed(bitsandbytes.nn.Linear4bit):
    """Linear4bit after quantization, its weight and the weight's state as plain buffers."""

    def __init__(self, empty):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = empty.in_features, empty.out_features
        self.compute_dtype, self.bias = empty.compute_dtype, empty.bias
        numel = self.in_features * self.out_features
        blocks = math.ceil(numel / BLOCK)
        self._hold("weight", (math.ceil(numel / 2), 1), torch.uint8)
        self._hold("absmax", (blocks,), torch.uint8)
        self._hold("second_absmax", (math.ceil(blocks / SECOND),), torch.float32)
        self._hold("offset", (), torch.float32)
        self._hold("code", (16,), torch.float32)
        self._hold("second_code", (256,), torch.float32)
        self.weight.compress_statistics, self.weight.quant_type = True, "nf4"

    def _hold(self, name, shape, dtype):
        self.register_buffer(name, torch.empty(shape, dtype=dtype, device="meta"))

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        return _Product.apply(x.to(self.compute_dtype), self, bias).to(x.dtype)

    def unpacked(self, dtype):
        """A new tensor at each call; the constants are unpacked first."""
        constants = torch.empty(self.absmax.shape, dtype=torch.float32, device=self.absmax.device) + self.offset
        return torch.empty(self.out_features, self.in_features, dtype=dtype, device=constants.device)


class _Product(torch.autograd.Function):
    """MatMul4Bit: neither the input nor an unpacked weight is kept."""

    @staticmethod
    def forward(ctx, x, layer, bias):
        ctx.layer = layer
        return torch.nn.functional.linear(x, layer.unpacked(x.dtype), bias)

    @staticmethod
    def backward(ctx, gradient):
        return torch.matmul(gradient, ctx.layer.unpacked(gradient.dtype)), None, None


def packed(model):
    """A skeleton as it is after loading in 4 bits: packed layers, everything else frozen and in fp32."""
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="bfloat16"
    )
    left = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    replace_with_bnb_linear(model, left, config)
    for name, module in list(model.named_modules()):
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            model.set_submodule(name, Packed(module))
    model.is_loaded_in_4bit = True
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
