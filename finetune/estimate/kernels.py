"""How a device computes the operators whose memory differs: autocast's casts, attention, dropout, quantized products.

Fake tensors follow the processor's rules. `Kernels` makes them follow the accelerator's: what autocast computes in
fp32 there, attention that never writes its scores down, dropout that keeps one byte a number, quantized weights.

Knows torch's operators; knows nothing of architectures, recipes or how much memory there is.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

CPU, FP32 = "cpu", "fp32"
PRODUCTS = frozenset((functional.linear, torch.addmm, torch.mm, torch.bmm, torch.matmul, torch.conv1d, torch.conv2d))
GROUPED: frozenset[Any] = frozenset((functional.grouped_mm, torch._grouped_mm))
IN_FP32 = frozenset((functional.layer_norm, functional.group_norm, functional.softmax, torch.softmax))
"""What CUDA's autocast computes in fp32 and the processor's does not.

https://docs.pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float32
"""


class Kernels(TorchFunctionMode):
    """The operators of a device, while a forward pass runs on fake tensors.

    Args:
        compute: of matrix products, under autocast; fp32 is no autocast.
        device: its type; `cpu` keeps the processor's rules.
        quantized: names of weights that stay quantized.
        keeps_inputs: whether a quantized product keeps its input, as LLM.int8() does and NF4 does not.
    """

    def __init__(self, compute: str, device: str, quantized: Collection[str] = (), keeps_inputs: bool = False) -> None:
        super().__init__()
        self.autocasts, self.device = compute != FP32, device
        self.quantized, self.keeps_inputs = quantized, keeps_inputs
        self.weights: dict[int, str] = {}
        """Storage to name."""
        self.casts: dict[Any, torch.Tensor] = {}
        """What autocast's cache holds: casts of weights, by storage and shape."""
        self.storages: set[int] = set()
        """Of the weights and of their casts."""

    def know(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Be told the weights by name."""
        self.weights = {storage(weight): name for name, weight in weights.items()}
        self.storages = set(self.weights)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Under autocast where products have a dtype of their own. fp16 and bf16 take the same room."""
        with torch.autocast(CPU, dtype=torch.bfloat16, enabled=self.autocasts), self:
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The device's operator in the place of the processor's."""
        kwargs = kwargs or {}
        if func in PRODUCTS:
            return self._product(func, args, kwargs)
        if func in GROUPED:
            return self._grouped(func, args, kwargs)
        if self.device == CPU:
            return func(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is functional.dropout:
            return _dropout(*args[:3], **kwargs)
        if func in IN_FP32 and self.autocasts:
            args = [a.float() if isinstance(a, torch.Tensor) else a for a in args]
        return func(*args, **kwargs)

    def _product(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is functional.linear and self.weights.get(storage(args[1])) in self.quantized:
            return _quantized(self.keeps_inputs, *args, **kwargs)
        if not self.autocasts:
            return func(*args, **kwargs)
        return func(*map(self._cast, args), **kwargs)

    def _cast(self, argument: Any) -> Any:
        """A weight as autocast's cache holds it: cast once, alive until the forward pass ends."""
        if not torch.is_tensor(argument) or argument.dtype != torch.float32 or argument.dim() < 2:
            return argument
        if storage(argument) not in self.weights:
            return argument
        key = storage(argument), argument.shape
        if key not in self.casts:
            self.casts[key] = argument.bfloat16()
            self.storages.add(storage(self.casts[key]))
        return self.casts[key]

    def _grouped(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Experts multiply in 16 bits or not at all."""
        halved = [self._cast(argument) for argument in args]
        halved = [a.bfloat16() if torch.is_tensor(a) and a.is_floating_point() else a for a in halved]
        return func(*halved, **kwargs).to(args[0].dtype)

    def _attention(self, q: Any, k: Any, v: Any, attn_mask: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """What CUDA dispatches to: flash without a mask, the memory-efficient kernel with one or in fp32."""
        dropout, causal = kwargs.get("dropout_p", 0.0), kwargs.get("is_causal", False)
        if self.autocasts:
            q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
        if attn_mask is None and q.dtype != torch.float32:
            return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout, causal)[0]
        groups = q.shape[1] // k.shape[1]
        k, v = (x if groups == 1 else x.repeat_interleave(groups, 1) for x in (k, v))
        bias = None if attn_mask is None else attn_mask.to(q.dtype).expand(*q.shape[:-1], k.shape[-2])
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, dropout, causal)[0]


def _quantized(keep: bool, x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
    """A frozen weight that is unpacked for the product and forgotten; the output is in the dtype of the input."""
    kept = x.bfloat16()
    output = functional.linear(kept, weight, None if bias is None else bias.to(weight.dtype))
    return _Keep.apply(output.to(x.dtype), kept) if keep else output.to(x.dtype)


class _Keep(torch.autograd.Function):
    """Keep a second tensor until the backward pass."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(kept)
        return output.view_as(output)

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> Any:
        return gradient, None


def _dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, **_: Any) -> torch.Tensor:
    """One fused kernel, which keeps a byte a number."""
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x


def storage(tensor: torch.Tensor) -> int:
    """What two views of the same numbers have in common."""
    return tensor.untyped_storage()._cdata
