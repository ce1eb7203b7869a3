"""The machine and the installed versions, as far as they change a result."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from finetune.models.precision import device

LIBRARIES = ("torch", "transformers", "datasets", "peft", "trl", "accelerate", "hydra-core", "bitsandbytes")
OVERRIDING = ("ACCELERATE_", "FSDP_", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "WANDB_MODE")


def describe() -> dict[str, Any]:
    """Versions, device, ranks, and the variables that would change a run; no value of a secret."""
    return {
        "python": platform.python_version(),
        "versions": versions(),
        "device": device_name(),
        "ranks": ranks(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(OVERRIDING)},
    }


def versions() -> dict[str, str]:
    """Installed libraries by name."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_name() -> str:
    """What computes, in words."""
    kind = device().type
    if kind == "cuda":
        return torch.cuda.get_device_name()
    return f"{kind}, {torch.get_num_threads()} threads" if kind == "cpu" else kind


def ranks() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
