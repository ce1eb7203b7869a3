"""The arithmetic of batches, closed: every number of a run follows from the rows and the sizes asked for."""

import math
from dataclasses import dataclass

from finetune.errors import UserError


@dataclass(frozen=True)
class Batches:
    """Sizes in rows, counts in steps. `global_batch = ranks x per_device x accumulation`."""

    rows: int
    ranks: int
    per_device: int
    accumulation: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    evaluations: int = 0
    """While training; the last one, of the finished model, comes besides."""
    checkpoints: int = 0

    @property
    def global_batch(self) -> int:
        """Rows per optimizer step."""
        return self.ranks * self.per_device * self.accumulation


def taken(rows: int, step: int, drop_last: bool) -> int:
    """How many rows an epoch takes.

    Raises:
        UserError: all of them would be dropped.
    """
    if not drop_last:
        return rows
    if rows < step:
        raise UserError(f"trainer.dataloader_drop_last=true leaves none of {rows} rows: a step takes {step}")
    return rows - rows % step


def accumulation(global_batch: int | None, per_device: int, ranks: int, given: int | None) -> int:
    """Micro-batches per optimizer step.

    Args:
        given: `trainer.gradient_accumulation_steps`, if it was written.
    Raises:
        UserError: no whole number of micro-batches makes the global batch.
    """
    if global_batch is None:
        return given or 1
    micro = per_device * ranks
    if given and given * micro != global_batch:
        raise UserError(
            f"global_batch_size={global_batch}, but {ranks} devices x {per_device} rows x "
            f"gradient_accumulation_steps={given} = {given * micro}. Leave gradient_accumulation_steps out."
        )
    if global_batch % micro == 0:
        return global_batch // micro
    below, above = global_batch // micro * micro, -(-global_batch // micro) * micro
    sizes = " or ".join(str(size) for size in (below, above) if size)
    fitting = [size for size in range(1, global_batch // ranks + 1) if global_batch % (size * ranks) == 0]
    nearest = min(fitting, key=lambda size: abs(size - per_device), default=None)
    per_device_hint = f", or trainer.per_device_train_batch_size={nearest}" if nearest else ""
    raise UserError(
        f"global_batch_size={global_batch} is not a multiple of {ranks} devices x {per_device} rows = {micro}. "
        f"Write global_batch_size={sizes}{per_device_hint}."
    )


def batches(rows: int, ranks: int, per_device: int, accumulation: int, schedule: "Schedule") -> Batches:
    """Close the arithmetic of a run.

    Raises:
        UserError: the warm-up would never end.
    """
    per_epoch = max(1, math.ceil(math.ceil(rows / (ranks * per_device)) / accumulation))
    total = schedule.max_steps if schedule.max_steps > 0 else math.ceil(schedule.epochs * per_epoch)
    warmup = math.ceil(schedule.warmup * total) if schedule.warmup < 1 else int(schedule.warmup)
    if warmup >= total > 1:
        raise UserError(
            f"trainer.warmup_steps={schedule.warmup:g} of {total} steps: the learning rate is never reached"
        )
    evaluations, checkpoints = (each.times(total, per_epoch) for each in (schedule.evaluate, schedule.save))
    return Batches(rows, ranks, per_device, accumulation, per_epoch, total, warmup, evaluations, checkpoints)


@dataclass(frozen=True)
class Every:
    """How often something happens: never (`no`), each epoch, or every so many steps; below 1 a share of all."""

    strategy: str = "no"
    steps: float | None = None

    def times(self, total: int, per_epoch: int) -> int:
        """How often in `total` steps; the end of training counts as the end of an epoch."""
        if self.strategy == "epoch":
            return math.ceil(total / per_epoch)
        if self.strategy != "steps" or not self.steps:
            return 0
        return total // max(1, math.ceil(self.steps * total) if self.steps < 1 else int(self.steps))


@dataclass(frozen=True)
class Schedule:
    """How long a run is: epochs, or steps where positive; warm-up as a count, or a share below 1."""

    epochs: float
    max_steps: int
    warmup: float
    evaluate: Every = Every()
    save: Every = Every()
