"""The loss of TRL's trainers without the trainers, to score a batch with any model: what they read of themselves is
set here. Held against the trainers by a test, loss type by loss type."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils.operations import ConvertOutputsToFp32

from finetune.config.options import resolve
from finetune.config.task import IGNORED
from finetune.models.fused_head import fused

Batch = dict[str, torch.Tensor]
UNREAD = {"output_dir": "unused", "use_cpu": True, "bf16": False, "fp16": False, "deepspeed": None, "fsdp": None}
"""Arguments that no loss reads, as they are accepted on any machine."""
TAKEN = ("input_ids", "attention_mask")
"""What of a batch goes through the model."""
UNREAD_OUTPUTS = ("entropy", "mean_logits", "log_sum_sq_probs")
"""What a trainer's method reads for the metrics of training, which are not kept."""
as_trained = ConvertOutputsToFp32
"""The model as accelerate gives it to the trainer: a loss of bf16 outputs would be another one."""


class Alone:
    """What a trainer asks of accelerate, for one process that scores by itself."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def gather(self, value: Any) -> Any:
        """As it is."""
        return value

    gather_for_metrics = gather
    autocast = staticmethod(nullcontext)


def of(name: str, trainer_class: str, arguments_class: str, arguments: dict[str, Any]) -> TrainersLoss:
    """The loss of that name in this module; made once for the same arguments."""
    return _made(name, trainer_class, arguments_class, json.dumps(arguments, sort_keys=True, default=str))


@lru_cache(maxsize=8)
def _made(name: str, trainer_class: str, arguments_class: str, arguments: str) -> TrainersLoss:
    found: TrainersLoss = globals()[name](trainer_class, arguments_class, json.loads(arguments))
    return found


@contextmanager
def _states_kept() -> Iterator[None]:
    """Arguments that are made begin accelerate's states anew, which a running trainer shares."""
    kept = [(each._shared_state, dict(each._shared_state)) for each in (PartialState, AcceleratorState)]
    try:
        yield
    finally:
        for shared, values in kept:
            shared.clear()
            shared.update(values)


class NoModel(torch.nn.Module):
    """What a trainer asks of its own model while it scores with another."""

    is_gradient_checkpointing = False


class TrainersLoss:
    """Loss and rewards by the methods of a trainer class."""

    def __init__(self, trainer_class: str, arguments_class: str, arguments: dict[str, Any]) -> None:
        with _states_kept():
            given = resolve(arguments_class)(**{**arguments, **UNREAD})
        kind = resolve(trainer_class)
        self.trainer: Any = kind.__new__(kind)
        vars(self.trainer).update(vars(given))
        vars(self.trainer).update(
            args=given,
            model=NoModel().eval(),
            ref_model=None,
            aux_loss_enabled=False,
            is_encoder_decoder=False,
            padding_value=0,
            pad_token_id=0,
            _total_train_tokens=0,
            _tp_size=1,
        )

    def __call__(self, model: Any, batch: Batch) -> Any:
        """The loss of the batch, and a reward for each sequence as `logits`."""
        self.trainer.accelerator = Alone(batch["input_ids"].device)
        self.trainer._metrics = {"eval": defaultdict(list)}
        loss, rewards = self.scored(model, batch)
        return SimpleNamespace(loss=loss, logits=rewards)

    def scored(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """Loss, and rewards (sequences,)."""
        raise NotImplementedError


class Rewards(TrainersLoss):
    """Of `RewardTrainer`: the model's own output is the reward."""

    def scored(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """Loss, and rewards (sequences,)."""
        output = as_trained(model)(**_taken(batch))
        return self.trainer.compute_loss(lambda **_: output, dict(batch)), output.logits.squeeze(-1)


class LogRatios(TrainersLoss):
    """Of `DPOTrainer` and `KTOTrainer`: a reward is β times the log-ratio of the model to its reference.

    KTO's estimate of a divergence moves no gradient and depends on how rows are batched: here it is zero.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        args = self.trainer.args
        self.trainer.precompute_ref_logps, self.trainer.calculate_KL = True, False
        self.trainer.loss_types = args.loss_type
        self.trainer.loss_weights = getattr(args, "loss_weights", None) or [1.0] * len(args.loss_type)

    def scored(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """Loss, and rewards (sequences,)."""
        output = self._output(model, batch)
        reference = batch["ref_logps"] if "ref_logps" in batch else _stacked(batch)
        rewards = self.trainer.beta * (self._logps(output, batch) - reference)
        return self.trainer._compute_loss(lambda **_: output, batch, False), rewards

    def reference(self, model: Any, batch: Batch) -> torch.Tensor:
        """Log-probabilities of the answers of each row, (rows, answers)."""
        self.trainer.accelerator = Alone(batch["input_ids"].device)
        found = self._logps(self._output(model, batch), batch)
        return found.view(2, -1).T if "label" not in batch else found.view(-1, int(batch["answers"]))

    def _output(self, model: Any, batch: Batch) -> Any:
        """What the fused head gives, as far as a loss depends on it."""
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
        squares = ["log_sum_sq_probs"] if getattr(self.trainer, "use_weighting", False) else []
        with fused(model, *squares):
            found = model(**_taken(batch), labels=labels, fused_lm_head=True)
        # Prompt tuning puts positions before a row.
        each = {name: getattr(found, name)[:, 1 - labels.shape[1] :] for name in ("log_probs", *squares)}
        unread = torch.zeros_like(each["log_probs"])
        return SimpleNamespace(**{**dict.fromkeys(UNREAD_OUTPUTS, unread), "is_top1": unread.bool(), **each})

    def _logps(self, output: Any, batch: Batch) -> torch.Tensor:
        """Of each answer, (sequences,), as the trainer sums them."""
        first, second = self.trainer.compute_ref_log_probs(lambda **_: output, batch)
        return first if second is None else torch.cat([first, second])


class Odds(TrainersLoss):
    """Of `ORPOTrainer` and `CPOTrainer`: a reward is β times the log-probability, and there is no reference."""

    def scored(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """Loss, and rewards (sequences,)."""
        trainer, sides = self.trainer, by_side(batch)
        passed = trainer.concatenated_forward(as_trained(model), sides)
        trainer.concatenated_forward = lambda *_: passed
        loss, _ = trainer.get_batch_loss_metrics(model, sides, "eval")
        del trainer.concatenated_forward
        reward = trainer.odds_ratio_loss if hasattr(trainer, "odds_ratio_loss") else trainer.cpo_loss
        _, chosen, rejected, *_ = reward(*passed[:2])
        return loss, torch.cat([chosen, rejected])


def by_side(batch: Batch) -> Batch:
    """A batch of pairs as ORPO and CPO take it, each side by itself."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    columns = {**{name: batch[name] for name in TAKEN}, "labels": labels}
    halves = {name: value.chunk(2) for name, value in columns.items()}
    return {
        f"{side}_{name}": both[at] for at, side in enumerate(("chosen", "rejected")) for name, both in halves.items()
    }


def _taken(batch: Batch) -> Batch:
    return {name: batch[name] for name in TAKEN}


def _stacked(batch: Batch) -> torch.Tensor:
    return torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]])
