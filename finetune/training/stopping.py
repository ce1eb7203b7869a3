"""A request to stop is followed at the end of a step, by all ranks together."""

import logging
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from finetune.errors import Stopped
from finetune.training import ranks
from finetune.training.signals import Request

log = logging.getLogger(__name__)


class StopAsked(TrainerCallback):
    """At the end of each step all ranks learn whether any of them was asked; then they save that step, and stop."""

    def __init__(self, trainer: Any, request: Request) -> None:
        self.trainer, self.request = trainer, request
        self.is_stopping = False

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """From here on a signal waits for the end of a step."""
        self.request.in_steps = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Agree, whether a checkpoint that was begun is on every rank's disk as well."""
        is_asked, is_flushing = ranks.any_of_each([self.request.by is not None, self.trainer.is_flushing()])
        if not is_flushing:
            self.trainer.settle()
        if is_asked:
            log.info(
                "stopping after step %d%s", state.global_step, f", by {self.request.by}" if self.request.by else ""
            )
            self.is_stopping = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave as soon as the step is saved; what upstream does at the end of an epoch is not for a part of one.

        Raises:
            Stopped: always, where the ranks have agreed.
        """
        if self.is_stopping and not self.trainer.save_is_due:
            self.trainer.settle()
            raise self._stopped(state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Steps are over; what came after the last of them was agreed on is followed now, if that step is kept.

        Raises:
            Stopped: a rank was asked meanwhile.
        """
        self.request.in_steps = False
        if args.save_strategy != SaveStrategy.NO and ranks.any_of(self.request.by is not None):
            raise self._stopped(state.global_step)

    def _stopped(self, step: int) -> Stopped:
        self.request.is_leaving = True
        return Stopped(f"stopped by {self.request.by or 'another rank'} after step {step}, which is saved")
