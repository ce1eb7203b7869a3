"""Hugging Face's Trainer with checkpoints that survive anything and resume to the bit. Knows what a trainer holds; what
lies on disk is known by `checkpoint` and `state`.

What upstream leaves out is kept here: the sums of a log window, the trainer's own running metrics, the seconds
trained, the state of callbacks, the rows' position. Weights and adapters keep Hugging Face's own file names.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from finetune.errors import MachineError, UserError
from finetune.models import adapter
from finetune.training import checkpoint, generators, ranks, state
from finetune.training.checkpoint import Manifest

log = logging.getLogger(__name__)

SUMS = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "_total_train_tokens", "_metrics",
        "_stored_metrics")  # fmt: skip
"""What trainers add up between two log lines, wherever one of them has it."""


@dataclass(frozen=True)
class Lineage:
    """Where a run's checkpoints come from and what they must agree with."""

    run: str
    identity: dict[str, Any]
    folder: Path
    """Where checkpoints go to."""
    parent: Path | None
    """The checkpoint this process goes on from."""


class Resumable:
    """Mixed in before a trainer class: its save and load hooks, ours."""

    lineage: Lineage
    sums: dict[str, Any] | None = None
    """What the checkpoint had added up, until training begins."""
    seconds_before = 0.0
    """Trained before this process began."""
    begun = 0.0
    save_is_due = False
    was_stopped = False
    """Whether the run was over when the checkpoint was written."""
    at_epoch_end = False
    steps_per_epoch: int

    # Saving

    def _save_checkpoint(self: Any, model: Any, trial: Any = None) -> None:
        if self._waits_for_epoch_end():
            return
        self.store_flos()
        folder, step = Path(self.args.output_dir), self.state.global_step
        target = folder / checkpoint.name(step)
        if self.state.best_global_step and self._is_kept(folder / checkpoint.name(self.state.best_global_step)):
            self.state.best_model_checkpoint = str(folder / checkpoint.name(self.state.best_global_step))
        started = time.monotonic()
        staging, error = ranks.attempt(lambda: checkpoint.stage(folder, step) if ranks.is_first() else None)
        if not error:
            error = self._write_and_publish(ranks.of_first(staging), target)
        if error:
            self._save_failed(target, error)
        if ranks.is_first():
            best = self.state.best_global_step
            checkpoint.retain(folder, self.args.save_total_limit, [checkpoint.name(best)] if best else [])
        log.info("%s saved in %.1f s", target.name, time.monotonic() - started, extra={"is_on_bar": True})

    def _is_kept(self: Any, best: Path) -> bool:
        """The best step's checkpoint is there, or is the one being saved."""
        return best.is_dir() or checkpoint.step_of(best) == self.state.global_step

    def _waits_for_epoch_end(self: Any) -> bool:
        """At the last step of an epoch everything that belongs to it, an evaluation say, comes before the save."""
        self.save_is_due = not self.at_epoch_end and self.state.global_step % self.steps_per_epoch == 0
        return self.save_is_due

    def _write_and_publish(self: Any, staging: Path, target: Path) -> str | None:
        """What went wrong, on any rank."""
        _, error = ranks.attempt(lambda: self._write(staging))
        files, error = (None, error) if error else ranks.attempt(lambda: self._flush_own(staging))
        if not error:
            every = {name: entry for table in ranks.gather(files) for name, entry in table.items()}
            _, error = ranks.attempt(lambda: self._publish(staging, target, every) if ranks.is_first() else None)
        if error and ranks.is_first():
            checkpoint.discard(staging)
        return error

    def _write(self: Any, staging: Path) -> None:
        """This rank's part of a checkpoint."""
        own = staging / f"rank-{ranks.rank()}"
        own.mkdir()
        self.save_model(str(staging), _internal_call=True)
        self._save_optimizer_and_scheduler(str(staging))
        self._save_scaler(str(staging))
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
            f"{target.name} could not be written to {target.parent}: {error}. {kept}. Mend that, for a full disk free "
            f"some, and go on with: finetune resume {target.parent.parent}"
        )

    def _save(self: Any, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights, config and tokenizer; never the pickled training arguments."""
        if not self.args.should_save and not self.is_distributed_loading_by_transformers:
            return
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        # "auto" asks the Hub for the base's vocabulary.
        more = {"save_embedding_layers": False} if adapter.is_adapted(model) else {}
        model.save_pretrained(output_dir, state_dict=state_dict, is_main_process=self.args.should_save, **more)
        if not self.args.should_save:
            return
        if adapter.is_adapted(model):
            state.save(adapter.state(model), Path(str(output_dir)), "trained")
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)
        (Path(str(output_dir)) / "README.md").unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self: Any, output_dir: str) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
            return
        if self.args.should_save:
            state.save(self.optimizer.state_dict(), Path(output_dir), "optimizer")
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

    # Loading

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        target = self.model if model is None else model
        if not adapter.is_adapted(target):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        adapter.restore(target, state.load(Path(resume_from_checkpoint), "trained"))

    def _load_best_model(self: Any) -> None:
        if adapter.is_adapted(self.model):
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()  # type: ignore[misc]

    def _init_training_state(self: Any, max_steps: int, *arguments: Any) -> tuple[int, int]:
        found: tuple[int, int] = super()._init_training_state(max_steps, *arguments)  # type: ignore[misc]
        # How often to log, evaluate and save is as configured now, not as it was.
        self.state.compute_steps(self.args, max_steps)
        if self.state.best_global_step:
            best = Path(self.args.output_dir) / checkpoint.name(self.state.best_global_step)
            if self.args.load_best_model_at_end and checkpoint.fault(best):
                raise UserError(f"the best checkpoint, {best}, cannot be used: {checkpoint.fault(best)}")
            self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        return found

    def _load_callback_state(self: Any) -> None:
        """Put back in place what callbacks had counted; upstream makes new ones and moves them to the end."""
        stored = self.state.stateful_callbacks
        for each in self.callback_handler.callbacks:
            for name, value in stored.get(type(each).__name__, {}).get("attributes", {}).items():
                setattr(each, name, value)
        self.was_stopped = stored.get("TrainerControl", {}).get("args", {}).get("should_training_stop", False)

    def _load_optimizer_and_scheduler(self: Any, source: str | None) -> None:
        if source is None or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(source)  # type: ignore[misc]
            return
        self.optimizer.load_state_dict(state.load(Path(source), "optimizer"))
        self.lr_scheduler.load_state_dict(state.load(Path(source), "scheduler"))

    def _load_scaler(self: Any, source: str | None) -> None:
        if source is not None and (Path(source) / "scaler.json").is_file():
            self.accelerator.scaler.load_state_dict(state.load(Path(source), "scaler"))

    def _load_rng_state(self: Any, source: str | None) -> None:
        """The generators of this rank; of one that the checkpoint has not, as they were seeded."""
        own = Path(str(source)) / f"rank-{ranks.rank()}"
        if source is not None and own.is_dir():
            generators.restore(state.load(own, "generators"))

    def _load_sums(self: Any, source: Path) -> None:
        """What was added up so far. Another number of ranks shares rank 0's."""
        own = source / f"rank-{ranks.rank()}"
        kept = state.load(own if own.is_dir() else source / "rank-0", "sums")
        self.seconds_before = kept.pop("seconds")
        for name, value in kept.items():
            here = getattr(self, name, None)
            if isinstance(here, dict):
                _refill(here, value)
            else:
                setattr(self, name, value.to(self.args.device) if isinstance(value, torch.Tensor) else value)

    # Running

    def _run_epoch(self: Any, *arguments: Any, **named: Any) -> None:
        """A run that was over when it was saved does not take one more step."""
        self.at_epoch_end = False
        if self.was_stopped or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*arguments, **named)  # type: ignore[misc]

    def _finalize_training(self: Any, trial: Any, num_train_samples: int, start_time: float) -> Any:
        """Loss and speed of the whole run, not of the part since it was last resumed."""
        self._initial_global_step = 0
        return super()._finalize_training(trial, num_train_samples, start_time - self.seconds_before)  # type: ignore[misc]


class Resuming(TrainerCallback):
    """The moments of a run that the trainer has no hook of its own for."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """After the trainer has set its sums to nothing: put back what they were."""
        self.trainer.begun = time.time()
        if self.trainer.lineage.parent:
            self.trainer._load_sums(self.trainer.lineage.parent)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A save that waited for the end of the epoch is made now."""
        self.trainer.at_epoch_end = True
        control.should_save = control.should_save or self.trainer.save_is_due


def _refill(here: dict[str, Any], kept: dict[str, Any]) -> None:
    """In place: a trainer's dicts make their entries up as they are asked for."""
    for name, value in kept.items():
        if isinstance(value, dict):
            _refill(here[name], value)
        else:
            here[name] = value
