"""What the machine multiplies in, and what weights are kept in. `auto` is resolved here, and nowhere else."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from finetune.config.schema import PrecisionConfig
from finetune.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The resolved names of both dtypes, and why."""

    compute: str
    trainable: str
    reason: str
    frozen: str = "auto"
    """Of weights that are not trained; auto is what the checkpoint stores."""


def device() -> torch.device:
    """The accelerator of this process, or the processor."""
    return (
        torch.accelerator.current_accelerator() or torch.device("cpu")
        if torch.accelerator.is_available()
        else torch.device("cpu")
    )


def take_own(number: int) -> None:
    """Compute on an accelerator of its own from here on: the first one is every process's, until it is told.

    Args:
        number: of this process on its machine; one that sees a single accelerator takes that.
    """
    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(number % torch.accelerator.device_count())


@dataclass(frozen=True)
class Multiplier:
    """What computes: a processor (`cpu`) or a kind of accelerator."""

    kind: str
    name: str
    bf16: bool | None
    """Whether it multiplies bf16 natively; None where that cannot be known from here."""


def here() -> Multiplier:
    """What this machine computes with."""
    kind = device().type
    return Multiplier(kind, f"this {kind}", _multiplies_bf16(kind))


def resolve(config: PrecisionConfig, stored: str = "auto", on: Multiplier | None = None) -> Precision:
    """Decide the dtypes.

    Args:
        stored: `model.dtype`, the dtype that frozen weights are asked to be in.
        on: what will compute; None is this machine.

    Raises:
        UserError: fp16 was asked for on a processor, which has no fast fp16 and no loss scaling, or auto for a device
            that nothing is known of.
    """
    on = on or here()
    if config.compute == "fp16" and on.kind == "cpu":
        raise UserError("precision=fp16 needs a GPU; on a processor write precision=auto, bf16 or fp32")
    if config.compute != "auto":
        return Precision(config.compute, config.trainable, "as configured", _frozen(config.compute, stored))
    if on.bf16 is None:
        raise UserError(
            f"precision=auto follows from the device, and {on.name} cannot be asked from here. Write what they are, "
            "such as plan.device=a100_80gb, or precision=bf16"
        )
    reason = f"{on.name} {'multiplies bf16 natively' if on.bf16 else 'has no native bf16'}"
    compute = "bf16" if on.bf16 else "fp32"
    return Precision(compute, config.trainable, reason, _frozen(compute, stored))


def _frozen(compute: str, stored: str) -> str:
    """Products in fp32 are of fp32 weights: without autocast, a fresh fp32 head meets nothing else."""
    return "fp32" if compute == "fp32" and stored == "auto" else stored


def _multiplies_bf16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def autocast(compute: str) -> AbstractContextManager[object]:
    """The context that training, evaluation, verification and prediction all compute in."""
    return nullcontext() if compute == "fp32" else torch.autocast(device().type, dtype=DTYPES[compute])
