"""What is tried before the first step and leaves no trace: the longest batch, a cut batch, a checkpoint.

What fails here would have failed after hours.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune.config.parallel import DDP, NONE
from finetune.errors import MachineError, UserError
from finetune.models.sharded import local
from finetune.plan.plan import Plan
from finetune.training import sharding
from finetune.training.saving import OPTIMIZER_BYTES

log = logging.getLogger(__name__)

TOLERANCE = 0.01


class Trials(TrainerCallback):
    """Run before the first step of a run, and again where it goes on: the machine may be another."""

    def __init__(self, trainer: Any, plan: Plan) -> None:
        self.trainer, self.plan = trainer, plan

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Try everything.

        Raises:
            UserError, MachineError: something will not work.
        """
        check_as_planned(self.trainer, self.plan)
        if self.plan.config.parallel.is_zero:
            return self._rehearse(args)  # DeepSpeed would take a step of whatever is tried
        if self.plan.config.guards.longest_first or sharding.wrapping(self.trainer) == DDP:
            with self.trainer.trial():
                first_batch(self.trainer, self.plan.config.guards.longest_first)
        if args.gradient_accumulation_steps > 1 and state.global_step == 0:
            with self.trainer.trial(), torch.no_grad():
                cut_batch(self.trainer)
        return self._rehearse(args)

    def _rehearse(self, args: TrainingArguments) -> None:
        if self.plan.config.checkpoint.rehearse and args.save_strategy != "no":
            self.trainer.rehearse()


def check_as_planned(trainer: Any, plan: Plan) -> None:
    """Refuse another number of processes, or a wrapping, than the plan's arithmetic is of.

    Raises:
        MachineError: it is another.
    """
    if trainer.args.world_size != plan.batches.ranks:
        raise MachineError(
            f"{trainer.args.world_size} processes train, and the plan is for {plan.batches.ranks}. Plan again"
        )
    method, found = plan.config.parallel.method, sharding.wrapping(trainer)
    # One process that torchrun starts is wrapped as well.
    wanted = [method] if method != NONE else [DDP] if plan.batches.ranks > 1 else [NONE, DDP]
    if found not in wanted:
        raise MachineError(f"the model is held as parallel={found} would, and the plan is for {wanted[0]}")


def first_batch(trainer: Any, is_longest: bool) -> None:
    """Forward and backward on rows, the longest if wanted, with room taken for what the optimizer will keep.

    DDP cuts gradients into other buckets after its first batch, and three ranks or more add up in the order of these.
    Once that is behind, a run that goes on adds up as one that never stopped.
    """
    rows, size = trainer.train_dataset, trainer.args.train_batch_size
    chosen = np.argsort(-rows.lengths, kind="stable")[:size] if is_longest else range(min(size, len(rows)))
    trained = sum(local(value).numel() for value in trainer.model.parameters() if value.requires_grad)
    device = trainer.args.device
    room = torch.empty(0 if device.type == "cpu" else trained * OPTIMIZER_BYTES, dtype=torch.uint8, device=device)
    trainer.losses = []
    batch, items = trainer.get_batch_samples(iter([trainer.data_collator(rows.__getitems__(chosen))]), 1, device)
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trainer.model_wrapped, batch[0], items)
    del room


def cut_batch(trainer: Any) -> None:
    """The loss of two rows together is that of one and the other, whatever the model class normalises by.

    Raises:
        UserError: it is not, so that gradient accumulation would change the result.
    """
    if not trainer.model_accepts_loss_kwargs and trainer.compute_loss_func is None:
        return
    rows = trainer.train_dataset.__getitems__(range(min(2, len(trainer.train_dataset))))
    trainer.model.eval()
    if len(rows) < 2:
        return
    batches = [trainer._prepare_inputs(each) for each in _whole_and_cut(trainer.data_collator, rows)]
    items = trainer._get_num_items_in_batch([batches[0]], trainer.args.device)
    if items is None:
        return
    with trainer.compute_loss_context_manager():
        whole, *parts = (
            float(trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)) for batch in batches
        )
    if abs(whole - sum(parts)) > TOLERANCE * max(abs(whole), 1e-6):
        raise UserError(
            f"{type(trainer.model).__name__} does not divide its loss by the items of the whole step: two rows have a "
            f"loss of {whole:.4g} together and {sum(parts):.4g} apart. Write trainer.gradient_accumulation_steps=1"
        )


def _whole_and_cut(collate: Callable[[list[Any]], dict[str, Any]], rows: list[Any]) -> list[dict[str, Any]]:
    """Two rows as a batch, and each by itself: cut out of it where it has a line a row, so that what is drawn while
    rows are collated, such as masks, is the same."""
    batch = collate(rows)
    if all(torch.is_tensor(value) and len(value) == len(rows) for value in batch.values()):
        return [batch, *({name: value[at : at + 1] for name, value in batch.items()} for at in range(len(rows)))]
    return [batch, *(collate([row]) for row in rows)]
