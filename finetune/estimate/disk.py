"""Disk that a run fills: checkpoints, one more while it is written, and the model at the end. Knows sizes alone.

What a checkpoint holds is known by `training/saving.py`: the weights, the optimizer's states, the scheduler, the
generators; of an adapter what is trained once more, as PEFT's own file keeps what inference needs alone.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.estimate import weights
from finetune.estimate.setup import Setup

SMALL = 2**20 + 2**24
"""States of the trainer, the scheduler and the random generators: 1 MiB; a tokenizer: up to 16 MiB."""


@dataclass(frozen=True)
class Disk:
    """Bytes in `output_dir`."""

    checkpoint: int
    """One checkpoint."""
    kept: int
    """How many are there at most, with the one that is being written."""
    model: int
    """The trained model at the end."""
    free: int

    @property
    def total(self) -> int:
        """The most there is at once."""
        return self.checkpoint * self.kept + self.model

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.total <= self.free


def disk(model: Any, setup: Setup, checkpoints: int, limit: int | None, output_dir: str) -> Disk:
    """What a run needs.

    Args:
        model: a skeleton with its adapter.
        checkpoints: how many the run will save; 0 where it saves none.
        limit: `trainer.save_total_limit`; None keeps all. The new one is written before an old one is removed.
    """
    saved = _saved(model, setup)
    kept = checkpoints if limit is None else min(checkpoints, limit + 1)
    written = 2 * saved if hasattr(model, "get_base_model") else saved
    return Disk(written + _states(model, setup) + SMALL, kept, saved + SMALL, free(output_dir))


def _saved(model: Any, setup: Setup) -> int:
    """An adapter alone where there is one, with what is trained beside it; else every weight, tied ones once."""
    found = weights.of(model, setup)
    adapted = hasattr(model, "get_base_model")
    return sum(weight.bytes for weight in found if weight.trained or not adapted)


def _states(model: Any, setup: Setup) -> int:
    """The optimizer's, paged ones as well; what is not known is taken for two states in fp32."""
    state = weights.state_bytes(setup.optim, setup.optim_args) or (lambda weight: 8 * weight.numel)
    return int(sum(state(weight) for weight in weights.of(model, setup) if weight.trained))


def free(folder: str) -> int:
    """Bytes free where a folder is, or will be."""
    nearest = Path(folder).expanduser().absolute()
    while not nearest.exists():
        nearest = nearest.parent
    return shutil.disk_usage(nearest).free
