"""When a checkpoint is saved, and how it is kept: written by all ranks, flushed beside the steps, put into its place.

What it holds is known by `contents`, what lies on disk by `checkpoint`.
"""

import logging
import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from finetune.errors import MachineError
from finetune.training import checkpoint, guards, ranks, state
from finetune.training.checkpoint import Manifest
from finetune.training.contents import Contents
from finetune.training.sealing import Sealing

log = logging.getLogger(__name__)

OPTIMIZER_BYTES = 8
"""AdamW will keep two numbers in fp32 for each trained weight; other optimizers keep less."""


@dataclass(frozen=True)
class Lineage:
    """Where a run's checkpoints come from and what they must agree with."""

    run: str
    identity: dict[str, Any]
    parent: Path | None
    """The checkpoint this process goes on from."""


class Saving(Contents):
    """Mixed in before a trainer class."""

    lineage: Lineage
    sealing: Sealing | None = None
    """The last checkpoint, where it is not in its place yet."""
    save_is_due = False
    """Whether a save waits for the end of the epoch."""
    at_epoch_end = False
    steps_per_epoch: int
    checkpoint_bytes = 0
    """What the last checkpoint took."""

    def add_model_card_callback(self: Any, *_: Any) -> None:
        """What sentence-transformers would keep for a card is of data sets of its own; the card is ours."""

    def train(self: Any, *arguments: Any, **named: Any) -> Any:
        """As upstream's. A process that fails alone keeps first what it had saved; of several, one may be gone."""
        try:
            return super().train(*arguments, **named)  # type: ignore[misc]
        except Exception:
            if ranks.world_size() == 1:
                _, error = ranks.attempt(self.settle)
                if error:
                    log.warning("%s", error)
            raise

    def _save_checkpoint(self: Any, model: Any, trial: Any = None) -> None:
        if self._waits_for_epoch_end():
            return
        self.settle()
        guards.check_finite(self.model)
        self.store_flos()
        folder, best = Path(self.args.output_dir), self.state.best_global_step
        target = folder / checkpoint.name(self.state.global_step)
        if best and self._is_kept(folder / checkpoint.name(best)):
            self.state.best_model_checkpoint = str(folder / checkpoint.name(best))
        self.sealing, error = self._write(folder, target)
        if error:
            self._save_failed(target, error)

    def is_flushing(self) -> bool:
        """Whether this rank's files of the last checkpoint are still on their way to the disk."""
        return self.sealing is not None and not self.sealing.flushing.done()

    def settle(self: Any) -> None:
        """Move the last checkpoint into its place, once all of it is on the disk. All ranks come here together.

        Raises:
            MachineError: it could not be kept.
        """
        sealing, self.sealing = self.sealing, None
        if not sealing:
            return
        started = time.monotonic()
        if error := self._publish(sealing):
            self._save_failed(sealing.target, error)
        if ranks.is_first():
            checkpoint.retain(sealing.target.parent, self.args.save_total_limit, sealing.keep)
        waited = sealing.seconds + time.monotonic() - started
        log.info("%s saved; steps waited %.1f s for it", sealing.target.name, waited, extra={"is_on_bar": True})

    def rehearse(self: Any) -> None:
        """Write, check, read and delete a checkpoint, all as it will be done.

        Raises:
            MachineError: something of it fails.
        """
        folder, started = Path(self.args.output_dir), time.monotonic()
        place = folder / f"{checkpoint.STAGING}rehearsal"
        target = place / checkpoint.name(self.state.global_step)
        sealing, error = self._write(place, target)
        error = error or self._publish(sealing)
        if not error:
            _, error = ranks.attempt(lambda: self._read_back(target))
        if ranks.is_first():
            checkpoint.discard(place)
        if error:
            raise MachineError(f"a checkpoint cannot be kept in {folder}: {error}")
        if self.lineage.parent is None:
            trained = (each.numel() for each in self.model.parameters() if each.requires_grad)
            self.checkpoint_bytes += OPTIMIZER_BYTES * sum(trained)
        size, seconds = self.checkpoint_bytes / 1e6, time.monotonic() - started
        log.info("a checkpoint was written and read back in %.1f s; it takes %.1f MB", seconds, size)

    def _read_back(self: Any, target: Path) -> None:
        if wrong := checkpoint.fault(target):
            raise OSError(wrong)
        for name in ("optimizer", "scheduler", f"rank-{ranks.rank()}/generators", f"rank-{ranks.rank()}/sums"):
            if (target / f"{name}.json").is_file():
                state.load(target, name)

    def _is_kept(self: Any, best: Path) -> bool:
        """The best step's checkpoint is there, or is the one being saved."""
        return best.is_dir() or checkpoint.step_of(best) == self.state.global_step

    def _waits_for_epoch_end(self: Any) -> bool:
        """After the last step of an epoch all that belongs to it, an evaluation say, comes before the save."""
        step, per_epoch = self.state.global_step, self.steps_per_epoch
        is_last = step % per_epoch == 0 or step >= self.state.max_steps or self.control.should_training_stop
        self.save_is_due = is_last and not self.at_epoch_end
        return self.save_is_due

    def _write(self: Any, folder: Path, target: Path) -> tuple[Sealing | None, str | None]:
        """A checkpoint on its way, or what went wrong on any rank; then nothing is left of it."""
        started = time.monotonic()
        staging, error = ranks.attempt(lambda: self._stage(folder) if ranks.is_first() else None)
        if error:
            return None, error
        staging = ranks.of_first(staging)
        # Apart: in each, ranks give their shares before one of them can fail to write.
        for part in (self._write_model, self._write_optimizer, self._write_own):
            error = error or ranks.attempt(partial(part, staging))[1]
        if error:
            self._drop(staging)
            return None, error
        return Sealing(staging, target, self._manifest(), self._kept(), self._own_files(staging), started), None

    def _publish(self: Any, sealing: Sealing) -> str | None:
        """What went wrong, on any rank, with its way to the disk and into its place."""
        files, error = ranks.attempt(sealing.flushing.result)
        if not error:
            every = {name: entry for table in ranks.gather(files) for name, entry in table.items()}
            self.checkpoint_bytes = sum(size for size, _ in every.values())
            manifest = replace(sealing.manifest, files=every)
            move = partial(checkpoint.publish, sealing.staging, sealing.target, manifest)
            _, error = ranks.attempt(lambda: move() if ranks.is_first() else None)
        if error:
            self._drop(sealing.staging)
        return error

    def _drop(self, staging: Path) -> None:
        if ranks.is_first():
            checkpoint.discard(staging)

    def _manifest(self: Any) -> Manifest:
        """Of the step that is saved, before its files are known."""
        parent = self.lineage.parent.name if self.lineage.parent else None
        return Manifest(
            self.lineage.run, self.state.global_step, parent, ranks.world_size(), self.lineage.identity, {}
        )

    def _kept(self: Any) -> list[str]:
        """The checkpoint that stays whatever comes, as far as this step knows: the best."""
        best = self.state.best_global_step
        return [checkpoint.name(best)] if best else []

    def _stage(self: Any, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < self.checkpoint_bytes:
            raise OSError(None, f"it takes {self.checkpoint_bytes / 1e6:.1f} MB, {free / 1e6:.1f} MB are free")
        return checkpoint.stage(folder, self.state.global_step)

    def _own_files(self, staging: Path) -> list[Path]:
        """Each rank its own folder; the first one everything else as well."""
        own = staging / f"rank-{ranks.rank()}"
        files = [path for path in own.rglob("*") if path.is_file()]
        if ranks.is_first():
            shared = [path for path in staging.rglob("*") if path.is_file()]
            files += [path for path in shared if not path.relative_to(staging).parts[0].startswith("rank-")]
        return files

    def _save_failed(self: Any, target: Path, error: str) -> None:
        last = next((each.name for each in checkpoint.found(target.parent)), None)
        kept = f"{last} is intact" if last else "There is no earlier checkpoint"
        raise MachineError(
            f"{target.name} could not be written to {target.parent}: {error}. {kept}. Once that is mended, go on "
            f"with: finetune resume {target.parent.parent}"
        )
