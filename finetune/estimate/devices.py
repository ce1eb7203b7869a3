"""Accelerators by name: what torch can allocate on them, how fast they multiply, and what is present here.

Knows data sheets and this machine; knows nothing of models. Memory is what torch reports as the total capacity of the
card, which is less than the data sheet's: firmware and ECC take their part. TFLOP/s are dense (data sheets print twice
as much, with sparsity) and with fp32 sums.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from finetune.config.suggest import did_you_mean
from finetune.errors import UserError

GIB = 2**30
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""The control groups of this process and their settings, as man 7 cgroups has them: in containers, and in jobs."""


@dataclass(frozen=True)
class Device:
    """One accelerator."""

    name: str
    gib: float
    """What torch can allocate, in GiB."""
    tflops: float
    """bf16, or fp16 where there is no bf16; dense."""
    gbps: float
    """Memory bandwidth in GB/s."""
    source: str
    """The vendor's numbers."""
    bf16: bool = True
    """Whether it multiplies bf16 natively."""
    kind: str = "cuda"

    @property
    def memory(self) -> int:
        """What torch can allocate, in bytes."""
        return int(self.gib * GIB)


NVIDIA = "https://www.nvidia.com/en-us/data-center"
AMD = "https://www.amd.com/en/products/accelerators/instinct"
TURING = "https://www.nvidia.com/content/dam/en-zz/Solutions/design-visualization/technologies/turing-architecture/NVIDIA-Turing-Architecture-Whitepaper.pdf"
AMPERE = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
BLACKWELL = "https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
DEVICES = (
    Device("b200", 178.3, 2250, 8000, f"{NVIDIA}/dgx-b200/"),
    Device("h200", 139.7, 989.5, 4800, f"{NVIDIA}/h200/"),
    Device("h100", 79.1, 989.5, 3350, f"{NVIDIA}/h100/"),
    Device("h100_nvl", 93.0, 835, 3900, f"{NVIDIA}/h100/"),
    Device("h100_pcie", 79.1, 756, 2000, f"{NVIDIA}/h100/"),
    Device("a100_80gb", 79.1, 312, 2039, f"{NVIDIA}/a100/"),
    Device("a100_40gb", 39.4, 312, 1555, f"{NVIDIA}/a100/"),
    Device("l40s", 44.4, 362, 864, f"{NVIDIA}/l40s/"),
    Device("l4", 22.0, 121, 300, f"{NVIDIA}/l4/"),
    Device("a10", 22.0, 125, 600, f"{NVIDIA}/products/a10-gpu/"),
    Device("a10g", 22.0, 70, 600, "https://aws.amazon.com/ec2/instance-types/g5/"),
    Device("l40", 44.3, 181, 864, f"{NVIDIA}/l40/"),
    Device("a40", 44.3, 149.7, 696, f"{NVIDIA}/a40/"),
    Device("t4", 14.5, 65, 320, f"{NVIDIA}/tesla-t4/", bf16=False),
    Device("v100", 15.7, 125, 900, f"{NVIDIA}/v100/", bf16=False),
    Device("v100_32gb", 31.7, 125, 900, f"{NVIDIA}/v100/", bf16=False),
    Device("rtx6000_ada", 47.3, 364, 960, ADA),
    Device("rtxa6000", 47.3, 154.8, 768, AMPERE),
    Device("rtx5090", 31.3, 209.5, 1792, BLACKWELL),
    Device("rtx4090", 23.5, 165.2, 1008, ADA),
    Device("rtx3090", 23.5, 71, 936, AMPERE),
    Device("rtx2080ti", 10.7, 53.8, 616, TURING, bf16=False),
    Device("mi355x", 287.0, 2500, 8000, f"{AMD}/mi350/mi355x.html"),
    Device("mi325x", 255.5, 1307, 6000, f"{AMD}/mi300/mi325x.html"),
    Device("mi300x", 191.5, 1307, 5300, f"{AMD}/mi300/mi300x.html"),
)
"""Of several cards of a name the smaller or slower one has the plain name, so that a plan that fits, fits."""


def names() -> list[str]:
    """Every name that `find` knows."""
    return [device.name for device in DEVICES]


def find(name: str) -> Device:
    """The accelerator called `name`.

    Raises:
        UserError: none is.
    """
    wanted = _plain(name)
    for device in DEVICES:
        if _plain(device.name) == wanted:
            return device
    hint = did_you_mean(name.lower(), names())
    raise UserError(f"plan.device={name} is not known. Known: {', '.join(names())}. {hint}".rstrip())


def present() -> Device | None:
    """The accelerator of this process with its real memory; None on a processor."""
    if not torch.accelerator.is_available() or (kind := torch.accelerator.current_accelerator()) is None:
        return None
    if kind.type != "cuda":
        return Device(kind.type, 0.0, 0.0, 0.0, "", bf16=False, kind=kind.type)
    _, total = torch.cuda.mem_get_info()
    title = torch.cuda.get_device_name()
    known = _by_title(title, total)
    bf16 = bool(torch.cuda.is_bf16_supported(including_emulation=False))
    speed = (known.tflops, known.gbps, known.source) if known else (0.0, 0.0, "")
    return Device(title, total / GIB, *speed, bf16=bf16)


def host() -> int:
    """Bytes of this machine's memory that a process may use: all, or what the control groups that it is in leave."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits()])


def _limits() -> Iterator[int]:
    with suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                yield from _limits_above(GROUPS / kinds, path, "memory.limit_in_bytes" if kinds else "memory.max")


def _limits_above(root: Path, path: str, setting: str) -> Iterator[int]:
    """Those of a group and of every one that it lies in; in a container its path may be one of the host's."""
    for group in (root / path.lstrip("/"), *(root / path.lstrip("/")).parents):
        with suppress(OSError, ValueError):  # the last group has no limit, and "max" is none
            yield int((group / setting).read_text())
        if group == root:
            return


def _by_title(title: str, total: int) -> Device | None:
    """The row of the table for what the driver calls the card, such as `NVIDIA A100-SXM4-80GB`.

    Where a model has variants it is the one whose memory is nearest. A laptop's card has the name of a faster one.
    """
    words = re.split(r"[^a-z0-9]+", title.lower())
    if "laptop" in words:
        return None
    named = {*words, *(first + second for first, second in pairwise(words))}
    fitting = [device for device in DEVICES if device.name.partition("_")[0] in named or _plain(device.name) in named]
    is_pcie = [device for device in fitting if ("pcie" in words) == ("pcie" in device.name)]
    return min(is_pcie or fitting, key=lambda device: abs(device.memory - total), default=None)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
