"""The machine and the installed versions, as far as they change a result."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from finetune.config.launch import LOCAL, RANK, LaunchConfig
from finetune.estimate import devices
from finetune.models import precision, processes
from finetune.models.precision import Multiplier, device

LIBRARIES = ("torch", "transformers", "datasets", "peft", "trl", "accelerate", "hydra-core", "bitsandbytes",
             "sentence-transformers", "deepspeed")  # fmt: skip
OVERRIDING = ("ACCELERATE_", "FSDP_", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "WANDB_MODE",
              "NCCL_", "GLOO_", "SBATCH_")  # fmt: skip


def describe(launch: LaunchConfig) -> dict[str, Any]:
    """Versions, device, ranks, and the variables that would change a run; no value of a secret."""
    return {
        "python": platform.python_version(),
        "versions": versions(),
        "device": trains_on(launch).name if launch.is_job else device_name(),
        "ranks": processes.ranks(launch),
        "launcher": launcher(launch),
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


def launcher(launch: LaunchConfig) -> str:
    """Who starts the processes."""
    if "SLURM_JOB_ID" in os.environ:
        return "SLURM"
    return "this process" if launch.method == LOCAL else launch.method


def alone() -> dict[str, str]:
    """The variables of a process that is no rank, also where this one is."""
    return {name: value for name, value in os.environ.items() if name not in RANK}


def trains_on(launch: LaunchConfig, named: str | None = None) -> Multiplier:
    """What computes: this machine's device, or what a job is given.

    Args:
        named: `plan.device`, which says what the GPUs of a job are.
    Raises:
        UserError: no known device is called so.
    """
    if not launch.is_job:
        return precision.here()
    if not launch.gpus:
        return Multiplier("cpu", "the processors of the job", False)
    if named is None:
        return Multiplier("cuda", "the GPUs of the job", None)
    found = devices.find(named)
    return Multiplier(found.kind, found.name, found.bf16)
