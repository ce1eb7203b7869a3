"""What guards look at: the numbers of each step before its weights are moved. Mixed in before a trainer class."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch

from finetune.config.task import IGNORED
from finetune.models.sharded import whole
from finetune.training import generators

COUNTED = ("_metrics", "_total_train_tokens", "_stored_metrics")
"""What a trainer adds up in computing a loss."""


class Watched:
    """Mixed in before a trainer class: keeps the losses, the gradient's norm and the items of the running step."""

    losses: list[torch.Tensor]
    norm: Any = None
    items: Any = None
    before: torch.Tensor
    is_left_out = False

    def training_step(self: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """As upstream's, remembered."""
        labels = inputs.get("labels")
        if num_items_in_batch is None and torch.is_tensor(labels) and not labels.is_floating_point():
            counted = labels.ne(IGNORED).sum()
            self.items = counted if self.items is None else self.items + counted
        elif num_items_in_batch is not None:
            self.items = num_items_in_batch
        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        self.losses.append(loss)
        return loss

    def _get_grad_norm(self: Any, model: Any, grad_norm: Any = None) -> Any:
        found = super()._get_grad_norm(model, grad_norm)  # type: ignore[misc]
        self.norm = whole(found) if torch.is_tensor(found) else found
        return self.norm

    def begin_step(self: Any) -> None:
        """Forget the step before."""
        self.losses, self.norm, self.items, self.before = [], None, None, self._tr_loss.clone()
        self.is_left_out = False

    def read_step(self: Any) -> tuple[float, float, float | None]:
        """Loss, norm of the gradient and number of trained items of this rank, in one transfer from its device."""
        parts = [torch.stack([each.float() for each in self.losses]).sum(), self.norm]
        parts += [] if self.items is None else [self.items]
        device = self.losses[0].device
        loss, norm, *items = torch.stack([torch.as_tensor(each, device=device).float() for each in parts]).tolist()
        return loss, norm, items[0] if items else None

    def leave_out(self: Any) -> None:
        """Take nothing of this step: no weight moves, and its loss is not logged."""
        self.is_left_out = True
        self._tr_loss.copy_(self.before)
        # The loss scaler of fp16 looks for overflows before gradients go, and fails where it finds none to look at.
        if self.args.fp16 and not self.args.max_grad_norm:
            self.accelerator.unscale_gradients()
        self.model.zero_grad(set_to_none=True)

    @contextmanager
    def trial(self: Any) -> Iterator[None]:
        """Compute whatever is to be tried, and leave no trace of it in model, generators or metrics."""
        kept = {name: deepcopy(getattr(self, name)) for name in COUNTED if hasattr(self, name)}
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        states, was_training = generators.states(), self.model.training
        try:
            yield
        finally:
            self.model.zero_grad(set_to_none=True)
            self.model.train(was_training)
            generators.restore(states)
            vars(self).update(kept)
            for buffer, value in buffers:
                buffer.copy_(value)
