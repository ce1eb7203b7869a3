"""The trainer's save hooks, ours: what a checkpoint holds. What lies on disk is known by `checkpoint` and `state`.

What upstream leaves out is kept here: the sums of a log window, the trainer's own running metrics, the seconds
trained, the state of callbacks, the rows' position. Weights and adapters keep Hugging Face's own file names.
"""

import logging
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers.trainer_callback import ExportableState

from finetune.errors import MachineError
from finetune.models import adapter, modules
from finetune.training import checkpoint, generators, guards, ranks, sharding, state
from finetune.training.checkpoint import Manifest

log = logging.getLogger(__name__)

SUMS = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "_total_train_tokens", "_metrics",
        "_stored_metrics")  # fmt: skip
"""What trainers add up between two log lines, wherever one of them has it."""

BESIDE = "beside"
"""The file of the weights that lie around the transformer."""
OPTIMIZER_BYTES = 8
"""AdamW will keep two numbers in fp32 for each trained weight; other optimizers keep less."""


@dataclass(frozen=True)
class Lineage:
    """Where a run's checkpoints come from and what they must agree with."""

    run: str
    identity: dict[str, Any]
    parent: Path | None
    """The checkpoint this process goes on from."""


class Saving:
    """Mixed in before a trainer class."""

    lineage: Lineage
    seconds_before = 0.0
    """Trained before this process began."""
    begun = 0.0
    save_is_due = False
    """Whether a save waits for the end of the epoch."""
    at_epoch_end = False
    steps_per_epoch: int
    checkpoint_bytes = 0
    """What the last checkpoint took."""

    def add_model_card_callback(self: Any, *_: Any) -> None:
        """What sentence-transformers would keep for a card is of data sets of its own; the card is ours."""

    def _save_checkpoint(self: Any, model: Any, trial: Any = None) -> None:
        if self._waits_for_epoch_end():
            return
        guards.check_finite(self.model)
        self.store_flos()
        folder, best = Path(self.args.output_dir), self.state.best_global_step
        target = folder / checkpoint.name(self.state.global_step)
        if best and self._is_kept(folder / checkpoint.name(best)):
            self.state.best_model_checkpoint = str(folder / checkpoint.name(best))
        started = time.monotonic()
        if error := self._write_and_publish(folder, target):
            self._save_failed(target, error)
        if ranks.is_first():
            checkpoint.retain(folder, self.args.save_total_limit, [checkpoint.name(best)] if best else [])
        log.info("%s saved in %.1f s", target.name, time.monotonic() - started, extra={"is_on_bar": True})

    def rehearse(self: Any) -> None:
        """Write, check, read and delete a checkpoint, all as it will be done.

        Raises:
            MachineError: something of it fails.
        """
        folder, started = Path(self.args.output_dir), time.monotonic()
        place = folder / f"{checkpoint.STAGING}rehearsal"
        target = place / checkpoint.name(self.state.global_step)
        error = self._write_and_publish(place, target)
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

    def _write_and_publish(self: Any, folder: Path, target: Path) -> str | None:
        """What went wrong, on any rank; then nothing is left of it."""
        staging, error = ranks.attempt(lambda: self._stage(folder) if ranks.is_first() else None)
        if error:
            return error
        staging = ranks.of_first(staging)
        # Apart: in each, ranks give their shares before one of them can fail to write.
        for part in (self._write_model, self._write_optimizer, self._write_own):
            error = error or ranks.attempt(partial(part, staging))[1]
        files, error = (None, error) if error else ranks.attempt(lambda: self._flush_own(staging))
        if not error:
            every = {name: entry for table in ranks.gather(files) for name, entry in table.items()}
            self.checkpoint_bytes = sum(size for size, _ in every.values())
            _, error = ranks.attempt(lambda: self._publish(staging, target, every) if ranks.is_first() else None)
        if error and ranks.is_first():
            checkpoint.discard(staging)
        return error

    def _stage(self: Any, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < self.checkpoint_bytes:
            raise OSError(None, f"it takes {self.checkpoint_bytes / 1e6:.1f} MB, {free / 1e6:.1f} MB are free")
        return checkpoint.stage(folder, self.state.global_step)

    def _write_model(self: Any, staging: Path) -> None:
        self.save_model(str(staging), _internal_call=True)

    def _write_optimizer(self: Any, staging: Path) -> None:
        self._save_optimizer_and_scheduler(str(staging))
        self._save_scaler(str(staging))

    def _write_own(self: Any, staging: Path) -> None:
        """What each rank keeps for itself, and the first one of all of them."""
        own = staging / f"rank-{ranks.rank()}"
        own.mkdir()
        state.save(generators.states(), own, "generators")
        state.save(self._sums(), own, "sums")
        if ranks.is_first():
            self._keep_callbacks()
            self.state.save_to_json(str(staging / "trainer_state.json"))

    def _flush_own(self: Any, staging: Path) -> checkpoint.Files:
        """Each rank its own folder; the first one everything else as well."""
        own = staging / f"rank-{ranks.rank()}"
        files = [path for path in own.rglob("*") if path.is_file()]
        if ranks.is_first():
            shared = [path for path in staging.rglob("*") if path.is_file()]
            files += [path for path in shared if not path.relative_to(staging).parts[0].startswith("rank-")]
        return checkpoint.flushed(files, staging)

    def _publish(self: Any, staging: Path, target: Path, files: checkpoint.Files) -> None:
        parent = self.lineage.parent.name if self.lineage.parent else None
        step, identity = self.state.global_step, self.lineage.identity
        checkpoint.publish(
            staging, target, Manifest(self.lineage.run, step, parent, ranks.world_size(), identity, files)
        )

    def _save_failed(self: Any, target: Path, error: str) -> None:
        last = next((each.name for each in checkpoint.found(target.parent)), None)
        kept = f"{last} is intact" if last else "There is no earlier checkpoint"
        raise MachineError(
            f"{target.name} could not be written to {target.parent}: {error}. {kept}. Once that is mended, go on "
            f"with: finetune resume {target.parent.parent}"
        )

    def save_model(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As upstream's; of shares, put together by all ranks first."""
        if sharding.is_sharded(self):
            self._save(output_dir or self.args.output_dir, sharding.weights(self))
        else:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]

    def _save(self: Any, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights, config and tokenizer; never the pickled training arguments."""
        if not self.args.should_save and not self.is_distributed_loading_by_transformers:
            return
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        inner = modules.core(model)
        # Under the names the weights have in memory: upstream reads a checkpoint by those, and writes by the Hub's.
        whole = partial(inner.save_pretrained, save_original_format=False)
        save = partial(adapter.save, inner) if adapter.is_adapted(model) else whole
        save(str(output_dir), state_dict=state_dict, is_main_process=self.args.should_save)
        if not self.args.should_save:
            return
        if adapter.is_adapted(model):
            state.save(adapter.state(model, state_dict), Path(str(output_dir)), "trained")
        elif others := modules.beside(model):
            state.save(others, Path(str(output_dir)), BESIDE)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)
        (Path(str(output_dir)) / "README.md").unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self: Any, output_dir: str) -> None:
        kept = sharding.optimizer(self)
        if self.args.should_save:
            state.save(kept, Path(output_dir), "optimizer")
            state.save(self.lr_scheduler.state_dict(), Path(output_dir), "scheduler")

    def _save_scaler(self: Any, output_dir: str) -> None:
        if self.args.should_save and getattr(self.accelerator, "scaler", None) is not None:
            state.save(self.accelerator.scaler.state_dict(), Path(output_dir), "scaler")

    def _sums(self: Any) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in SUMS if hasattr(self, name)}
        return {**kept, "seconds": self.seconds_before + time.time() - self.begun}

    def _keep_callbacks(self: Any) -> None:
        holders = [*self.callback_handler.callbacks, self.control]
        self.state.stateful_callbacks = {
            type(each).__name__: each.state() for each in holders if isinstance(each, ExportableState)
        }
