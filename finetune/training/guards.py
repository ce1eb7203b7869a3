"""Guards: what ruins a model while its loss looks like any other's ends the run, or is left out, within one step.

Each is a callback that looks at the trainer's step before the weights are moved, when nothing is lost yet.
"""

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from finetune.config.schema import GuardsConfig
from finetune.errors import UserError
from finetune.models.sharded import local, whole
from finetune.training import ranks

log = logging.getLogger(__name__)

FIRST_STEPS = 10
WINDOW, FEWEST, DEVIATIONS, LEAST = 128, 32, 6, 0.05
SAMPLE = 4096


class RollBack(Exception):
    """Go back to the last checkpoint, and leave out every step since."""

    def __init__(self, step: int, why: str) -> None:
        super().__init__(why)
        self.step, self.why = step, why


class Finite(TrainerCallback):
    """A loss or gradient that is no number never reaches a weight."""

    def __init__(self, trainer: Any, action: str, skipped: Iterable[int]) -> None:
        self.trainer, self.action, self.skipped = trainer, action, frozenset(skipped)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """A new step."""
        self.trainer.begin_step()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Look at the numbers of this step.

        Raises:
            UserError, RollBack: one is not finite, and the guard is set to stop or to go back.
        """
        step, trainer = state.global_step + 1, self.trainer
        loss, norm, trainer.step_items = trainer.read_step()
        trainer.step_loss = loss
        # The loss scaler of fp16 finds its scale by overflowing gradients, and leaves those steps out.
        bad = not math.isfinite(loss) or not (math.isfinite(norm) or args.fp16)
        if step in self.skipped:
            trainer.leave_out()
        elif ranks.any_of(bad):
            what = f"grad_norm is {norm}" if math.isfinite(loss) else f"loss is {loss}"
            act(trainer, self.action, step, f"{what} at step {step}", NOT_FINITE)
            log.warning("step %d is left out: %s", step, what)
            trainer.leave_out()


NOT_FINITE = (
    "Lower trainer.learning_rate, write precision=fp32, or leave such steps out with guards.non_finite=skip. No "
    "checkpoint holds what came of it"
)


class Spikes(TrainerCallback, ExportableState):
    """A loss far above its recent values is said, or acted on."""

    def __init__(self, trainer: Any = None, action: str = "warn") -> None:
        self.trainer, self.action = trainer, action
        self.recent: list[float] = []

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"recent": list(self.recent)}}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Compare with the window of recent losses."""
        if self.trainer.is_left_out:
            return
        loss, step = self.trainer.step_loss, state.global_step + 1
        usual = self._usual()
        is_spike = usual is not None and loss > usual
        if self.action != "warn":
            is_spike = ranks.any_of(is_spike)
        if is_spike:
            what = f"the loss is {loss:.4g} at step {step}, and was at most about {usual or 0:.4g} before"
            log.warning("%s", what)
            if self.action != "warn":
                act(self.trainer, self.action, step, what, "guards.spike=warn goes on")
        elif math.isfinite(loss):
            self.recent = [*self.recent[1 - WINDOW :], loss]

    def _usual(self) -> float | None:
        """Where a spike begins; None while too little is known."""
        if len(self.recent) < FEWEST:
            return None
        mean = sum(self.recent) / len(self.recent)
        deviation = math.sqrt(sum((each - mean) ** 2 for each in self.recent) / len(self.recent))
        return mean + DEVIATIONS * max(deviation, LEAST * abs(mean))


class Reached(TrainerCallback):
    """Every weight to be trained gets a gradient in the first steps and moves; every step has something to train."""

    def __init__(self, trainer: Any, action: str) -> None:
        self.trainer, self.action = trainer, action
        self.waiting: dict[str, torch.Tensor] | None = None
        self.steps = 0
        self.sampled: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Look at items and gradients."""
        if self.trainer.step_items == 0 and not self.trainer.is_left_out:
            self._found(f"step {state.global_step + 1} has nothing to train on: every label is masked")
        if self.steps >= FIRST_STEPS:
            return
        if self.waiting is None:
            self.waiting = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.steps += 1
        # A gradient of this step may be absent because the step was left out; one of another step counts.
        self.waiting = {name: value for name, value in self.waiting.items() if not _has_gradient(value)}
        if self.steps == FIRST_STEPS:
            self.sampled = list(_samples(model))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """After the last of the first steps: what was not reached, and what did not move.

        LoRA's A has no gradient before B has moved, which a warm-up from zero puts off to the third step.
        """
        if self.steps < FIRST_STEPS or self.waiting is None:
            return
        zero = [name for name, value in model.named_parameters() if "lora_B" in name and not whole(value.any())]
        if names := sorted({*self.waiting, *zero}):
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            self._found(f"in the first {self.steps} steps no gradient reached {shown}")
        self._say_unmoved()
        self.waiting, self.sampled = None, []

    def _say_unmoved(self) -> None:
        moved = [(now.flatten()[at] != before).float() for now, at, before in self.sampled]
        if not moved:
            return
        share = 1 - float(torch.cat([each.cpu() for each in moved]).mean())
        if share > 0.5:
            log.warning(
                "%.0f %% of the trained weights that had a gradient did not move in step %d: the step is smaller than "
                "their number format can hold. precision.trainable=fp32 holds it", share * 100, self.steps,
            )  # fmt: skip

    def _found(self, what: str) -> None:
        if self.action == "stop":
            raise UserError(f"{what}. Freeze what is not trained, or write guards.untrained=warn")
        log.warning("%s", what)


def chosen(trainer: Any, config: GuardsConfig, skipped: Iterable[int]) -> list[TrainerCallback]:
    """The guards of a run, in the order they look."""
    guards: list[TrainerCallback] = [Finite(trainer, config.non_finite, skipped)]
    # DeepSpeed has moved the weights, and forgotten their gradients, before it could look.
    if config.untrained != "off" and not trainer.is_deepspeed_enabled:
        guards.append(Reached(trainer, config.untrained))
    if config.spike != "off":
        guards.append(Spikes(trainer, config.spike))
    return guards


def act(trainer: Any, action: str, step: int, what: str, hint: str) -> None:
    """End the run, go back, or, where the step is only to be left out, nothing. All ranks act together.

    Raises:
        UserError, RollBack: what was saved before is in its place.
    """
    if action == "skip":
        return
    trainer.settle()
    if action == "rollback":
        raise RollBack(step, what)
    raise UserError(f"{what}. {hint}.")


def check_finite(model: torch.nn.Module) -> None:
    """Look at every trained weight, before it is kept.

    Raises:
        UserError: one is not finite.
    """
    values = [(name, local(value).detach()) for name, value in model.named_parameters() if value.requires_grad]
    if not values or bool(torch.stack([value.isfinite().all() for _, value in values]).all()):
        return
    name = next(name for name, value in values if not value.isfinite().all())
    raise UserError(
        f"the weights are no numbers any more, first {name}. Lower trainer.learning_rate. Nothing of them was saved"
    )


def _has_gradient(value: torch.Tensor) -> bool:
    return value.grad is not None and bool(whole(value.grad.any()))


def _samples(model: torch.nn.Module) -> Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Of each trained tensor, weights that have a gradient: the tensor, positions in it, values before the step.

    Positions are spread first and looked at then: those of every gradient would take twice the memory of fp32 weights.
    """
    for weight in model.parameters():
        if weight.requires_grad and weight.grad is not None:
            value, gradient = local(weight).detach(), local(weight.grad)
            at = torch.arange(0, value.numel(), max(1, value.numel() // SAMPLE), device=value.device)
            at = at[gradient.flatten()[at] != 0]
            yield value, at, value.flatten()[at].clone()
