"""The machine and the installed versions, as far as they change a result."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
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
        "launcher": launcher(),
        "credentials": credentials(),
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


def idle_gpus() -> int:
    """Accelerators that one process leaves alone."""
    return max(0, torch.cuda.device_count() - 1)


def credentials() -> dict[str, str]:
    """Whether what a run may need is there; never a value."""
    from huggingface_hub import get_token

    wandb = bool(os.environ.get("WANDB_API_KEY")) or (Path.home() / ".netrc").is_file()
    return {"Hub token": _present(bool(get_token())), "W&B key": _present(wandb)}


def _present(found: bool) -> str:
    return "present" if found else "none"


def launcher() -> str:
    """Who started this process."""
    if "SLURM_JOB_ID" in os.environ:
        return "SLURM"
    return "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "this process"


def ranks() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
