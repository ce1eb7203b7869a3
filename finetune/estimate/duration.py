"""How long a run takes, as a range: from a throughput that is given, measured here before, or computed from FLOPs.

Knows tokens, FLOPs and devices; knows nothing of recipes. The measured throughputs of this machine are kept in a file
of the cache, safe to delete.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.config.cache import cache_folder
from finetune.estimate.devices import Device

MFU = (0.15, 0.45)
"""Share of a device's peak that fine-tuning reaches. NeMo AutoModel's LoRA of Llama-3-8B has 41 % of an H100's 989
TFLOP/s, MosaicML's MPT-7B 46 %, torchtitan's Llama-3.1-8B 39 %; eager attention, short rows and small models have a
third of that. github.com/NVIDIA-NeMo/Automodel docs/performance-summary.mdx, github.com/mosaicml/llm-foundry
scripts/train/benchmarking, github.com/pytorch/torchtitan benchmarks.
"""
AGAIN = (0.85, 1.2)
"""A run of the same shape on the same machine, against its earlier throughput."""
GIVEN = (0.9, 1.1)
CPU_EFFICIENCY = (0.2, 0.8)
"""Of one large product's speed, what a whole step of training reaches on a processor."""


@dataclass(frozen=True)
class Duration:
    """Seconds of training, and how they are known."""

    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Work:
    """What there is to compute."""

    tokens: int
    """Of all steps and epochs, padding included."""
    length: float
    """Mean tokens a row, padding included; what attention is quadratic in."""
    matmul: int
    """Numbers in weights that every token is multiplied by: all but embeddings, and of experts the active ones."""
    trained: int
    """Those of them that are trained."""
    layers: int
    hidden: int
    checkpointing: bool = False
    unit: str = "tokens"
    """What `tokens` counts; of anything else, what is computed for it is not known."""

    def flops(self) -> float:
        """Forward 2 a weight and token, backward as much for the inputs, and again for the weights that are trained.

        Attention adds 4 · layers · length · hidden a token forward, half of it where it is causal, which is not
        counted off; checkpointing computes the forward pass once more (arXiv 2001.08361, section 2.1; 2204.02311,
        appendix B).
        """
        attention = 4 * self.layers * self.length * self.hidden / 2
        forward = 2 * self.matmul + attention
        backward = 2 * self.matmul + 2 * self.trained + 2 * attention
        return self.tokens * (forward * (2 if self.checkpointing else 1) + backward)


def duration(work: Work, ranks: int, device: Device | None, key: str, given: float | None = None) -> Duration | None:
    """The best-known range.

    Args:
        device: None is this machine's processor.
        key: the shape of the run (`shape`).
        given: tokens a second and rank, as the user knows it.

    Returns:
        None where the device's speed is not known, or what there is to compute.
    """
    if given:
        return _spread(work.tokens / (given * ranks), GIVEN, f"{given:,.0f} {work.unit}/s a rank, as given")
    if (measured := recall(key)) is not None:
        return _spread(work.tokens / (measured * ranks), AGAIN, f"{measured:,.0f} {work.unit}/s a rank, measured here")
    peak, shares = (processor_flops(), CPU_EFFICIENCY) if device is None else (device.tflops * 1e12, MFU)
    if not peak or work.unit != "tokens":
        return None
    seconds = work.flops() / (peak * ranks)
    source = f"{work.flops():.2g} FLOP at {shares[0]:.0%} to {shares[1]:.0%} of {peak / 1e12:.3g} TFLOP/s"
    return Duration(seconds / shares[1], seconds / shares[0], source)


def _spread(seconds: float, shares: tuple[float, float], source: str) -> Duration:
    return Duration(seconds * shares[0], seconds * shares[1], source)


def shape(**facts: Any) -> str:
    """A name for runs that are equally fast: model, device, dtypes, rows, length, adapter, and the like."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def record(key: str, tokens_per_second: float) -> None:
    """Keep the throughput of a rank for the next plan of the same shape; a cache that cannot be written costs that."""
    file = _file()
    found = {**_read(file), key: {"tokens_per_second": tokens_per_second, "time": round(time.time())}}
    staged = file.with_suffix(f".{hashlib.sha256(key.encode()).hexdigest()[:8]}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(json.dumps(found, indent=1), encoding="utf-8")
        staged.replace(file)
    except OSError:
        return


def recall(key: str) -> float | None:
    """The throughput recorded for a shape, in tokens a second and rank."""
    found = _read(_file()).get(key)
    speed = found.get("tokens_per_second") if isinstance(found, dict) else None
    return float(speed) if isinstance(speed, int | float) and speed > 0 else None


def processor_flops() -> float:
    """FLOP/s of one product of this processor: the best of three, 0.1 s together."""
    size = 512
    a, b = torch.rand(size, size), torch.rand(size, size)
    torch.mm(a, b)
    return 2 * size**3 / min(_seconds(a, b) for _ in range(3))


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(a, b)
    return time.perf_counter() - start


def _file() -> Path:
    return cache_folder() / "throughput.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
