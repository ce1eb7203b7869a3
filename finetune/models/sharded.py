"""Tensors of which each process holds a share (torch's DTensor), and whole ones: both read and filled alike.

What is put together is asked of every process at once: each `whole` waits for all of them. Knows no trainer, no file.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from finetune.models.precision import device


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether a process holds only shares of its weights."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def whole(value: torch.Tensor) -> torch.Tensor:
    """All of a tensor: a share is put together with those of the other processes, on the device they talk through."""
    if not isinstance(value, DTensor):
        return value
    shares: Any = value.detach().to(value.device_mesh.device_type)
    found: torch.Tensor = shares.full_tensor()
    return found


def local(value: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor; may be empty."""
    found: torch.Tensor = value.to_local() if isinstance(value, DTensor) else value
    return found


def put_together(value: Any, keep: bool) -> Any:
    """Nested dicts and lists with every share made whole, on the processor.

    Args:
        keep: whether this process wants them; else each is dropped at once, so that not every process holds all.
    """
    if isinstance(value, DTensor):
        found = whole(value)
        return found.cpu() if keep else None
    if isinstance(value, Mapping):
        return {key: put_together(part, keep) for key, part in value.items()}
    return [put_together(part, keep) for part in value] if isinstance(value, list) else value


def fill(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into one of the model, or this process's share of it."""
    with torch.no_grad():
        target.copy_(value if not isinstance(target, DTensor) else share(value, target))


def share(value: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """A whole tensor, shared out like another one; every process has it, so none is asked."""
    if not isinstance(of, DTensor) or value.shape != of.shape:
        return value
    cut = distribute_tensor(value.to(of.device_mesh.device_type), of.device_mesh, of.placements, src_data_rank=None)
    return cut.to(of.to_local().device)


def computes_on(model: Any) -> torch.device:
    """The device of a model's products; a share may wait in the host's memory."""
    found: torch.device = device() if isinstance(model, torch.nn.Module) and is_sharded(model) else model.device
    return found
