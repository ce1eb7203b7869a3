"""The trainer's load hooks, ours: a run goes on as if it had never stopped. What a checkpoint holds is known by
`contents`.

Upstream forgets the sums of a log window, the trainer's own running metrics and the seconds trained, lets the saved
intervals win over the configured ones, and takes one more step of a run that was over. None of it is left to it.
"""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from finetune.errors import UserError
from finetune.models import adapter, modules
from finetune.plan import identity
from finetune.training import checkpoint, generators, ranks, sharding, state
from finetune.training.contents import BESIDE
from finetune.training.saving import Lineage

log = logging.getLogger(__name__)

SET = {"trainer.learning_rate": "initial_lr", "trainer.weight_decay": "weight_decay", "trainer.adam_beta1": "betas",
       "trainer.adam_beta2": "betas", "trainer.adam_epsilon": "eps"}  # fmt: skip
"""Field of the identity to the optimizer's own word."""


class Loading:
    """Mixed in before a trainer class, together with `Saving`."""

    lineage: Lineage
    seconds_before = 0.0
    was_stopped = False
    """Whether the run was over when the checkpoint was written."""

    def _prepare_for_training(self: Any, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """As upstream's; shares are handed out by us, from files that are none of upstream's."""
        source = resume_from_checkpoint if sharding.is_sharded(self) else None
        given = None if source else resume_from_checkpoint
        found = super()._prepare_for_training(max_steps, train_dataloader, given)  # type: ignore[misc]
        if source:
            sharding.load_weights(self, Path(source))
            self._load_optimizer_and_scheduler(source)
            self._load_scaler(source)
        return found

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        target = self.model if model is None else model
        folder, others = Path(resume_from_checkpoint), modules.beside(target)
        if adapter.is_adapted(target):
            adapter.restore(target, state.load(folder, "trained"))
            return
        # The class that knows transformers' files; a library's own trainer knows its own.
        Trainer._load_from_checkpoint(self, resume_from_checkpoint, modules.core(target))
        with torch.no_grad():
            for name, value in (state.load(folder, BESIDE) if others else {}).items():
                others[name].copy_(value)

    def _issue_warnings_after_load(self: Any, load_result: Any) -> None:
        """What upstream warns of; weights that are tied, or computed like Marian's positions, are not missed."""
        unsaved = ("all_tied_weights_keys", "_keys_to_ignore_on_save")
        missing = set(load_result.missing_keys).difference(
            *(getattr(modules.core(self.model), name, None) or () for name in unsaved)
        )
        if wrong := sorted({*missing, *load_result.unexpected_keys}):
            raise UserError(f"the checkpoint is of another model: {', '.join(wrong[:5])} do not agree")

    def _load_best_model(self: Any) -> None:
        if sharding.is_sharded(self):
            sharding.load_weights(self, Path(self.state.best_model_checkpoint))
        elif adapter.is_adapted(self.model) or modules.core(self.model) is not self.model:
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()  # type: ignore[misc]

    def _init_training_state(self: Any, max_steps: int, *arguments: Any) -> tuple[int, int]:
        found: tuple[int, int] = super()._init_training_state(max_steps, *arguments)  # type: ignore[misc]
        if self.lineage.parent and self.lineage.parent.parent != Path(self.args.output_dir):
            self.state.best_global_step = self.state.best_metric = self.state.best_model_checkpoint = None
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
        stopped = stored.get("TrainerControl", {}).get("args", {}).get("should_training_stop", False)
        # At its last step a run stops as well; one that is made longer has not had it yet.
        self.was_stopped = stopped and self.state.global_step < self.state.max_steps

    def _load_optimizer_and_scheduler(self: Any, source: str | None) -> None:
        if source is None:
            return
        changed = self._changed(Path(source))
        fresh = [{name: group[name] for name in group if name != "params"} for group in self.optimizer.param_groups]
        if "trainer.optim" in changed:
            log.warning("the optimizer is another one than the checkpoint's, and begins anew")
        else:
            sharding.load_optimizer(self, state.load(Path(source), "optimizer"))
        self.lr_scheduler.load_state_dict(state.load(Path(source), "scheduler"))
        if changed:
            self._apply(changed, fresh)

    def _changed(self: Any, source: Path) -> set[str]:
        """The accepted changes since the checkpoint."""
        was = checkpoint.read(source).identity
        return {change.field for change in identity.changes(was, self.lineage.identity)}

    def _apply(self: Any, changed: set[str], fresh: list[dict[str, Any]]) -> None:
        """An accepted change is one: upstream goes on with the numbers of the checkpoint."""
        names = {SET[field] for field in changed if field in SET}
        scheduler, groups = self.lr_scheduler, self.optimizer.param_groups
        for group, new in zip(groups, fresh, strict=True):
            group.update({name: new[name] for name in names if name in new})
        if not hasattr(scheduler, "lr_lambdas"):
            return
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        for group, base, share in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = base * share(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in groups]

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

    def _run_epoch(self: Any, *arguments: Any, **named: Any) -> None:
        """A run that was over when it was saved does not take one more step."""
        self.at_epoch_end = False
        if self.was_stopped or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*arguments, **named)  # type: ignore[misc]

    def _finalize_training(self: Any, trial: Any, num_train_samples: int, start_time: float) -> Any:
        """Loss and speed of the whole run, not of the part since it was last resumed."""
        self.settle()
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
