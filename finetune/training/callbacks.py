"""What happens beside the steps: metrics to a file, progress to the screen."""

import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune.estimate import duration
from finetune.models.adapter import moves_ranks
from finetune.models.modules import core
from finetune.plan import costs
from finetune.plan.plan import Plan

log = logging.getLogger(__name__)

UNSTEADY, FEWEST = 3, 10
"""Steps at the beginning that allocate and compile, and how many later ones tell a speed."""


class MetricsFile(TrainerCallback):
    """One JSON object a line with raw numbers, for every logged step and evaluation."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take back what was logged after the checkpoint that this run goes on from; it is logged again."""
        if not state.is_world_process_zero:
            return
        written = self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []
        kept = written[: len(state.log_history)]
        # What the power took before it was on the disk is known to the checkpoint.
        lost = [json.dumps(_numbers(entry)) for entry in state.log_history[len(kept) :]]
        staged = self.file.with_name(f".{self.file.name}")
        staged.write_text("".join(f"{line}\n" for line in [*kept, *lost]), encoding="utf-8")
        staged.replace(self.file)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Append the logged numbers."""
        if state.is_world_process_zero:
            entry = {"step": state.global_step, "time": round(time.time(), 3), **_numbers(logs or {})}
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")


class Heartbeat(TrainerCallback):
    """A bar on a terminal, a plain line elsewhere, and the line in the log of the run, at every logged step."""

    def __init__(self) -> None:
        self.bar: Progress | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the bar where there is a terminal to draw it on."""
        if sys.stdout.isatty():
            columns = (
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self.bar = Progress(*columns)
            self.bar.start()
            self.bar.add_task("", total=state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Show the newest numbers."""
        shown = ("loss", "eval_loss", "learning_rate", "grad_norm")
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in _numbers(logs or {}).items() if name in shown)
        if self.bar:
            self.bar.update(self.bar.task_ids[0], description=numbers)
        if numbers and state.is_world_process_zero:
            said = {"is_on_bar": self.bar is not None}
            log.info("step %d/%d  %s", state.global_step, state.max_steps, numbers, extra=said)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        """Take the bar away, however training ended."""
        if self.bar:
            self.bar.stop()


class Pace(TrainerCallback):
    """How fast steady steps are, rows fetched and no save or evaluation between, kept for the next plan's duration."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.last: float | None = None
        self.seconds: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The time since the step before."""
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now

    def on_save(self, *_: Any, **__: Any) -> None:
        """The next step's time is not of the step alone."""
        self.last = None

    on_evaluate = on_epoch_begin = on_save

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep it, unless the plan was for another device than this one."""
        steady = self.seconds[UNSTEADY:]
        if state.is_world_process_zero and len(steady) >= FEWEST and not self.plan.config.plan.device:
            tokens = costs.tokens_of_step(self.plan.report, self.plan.batches) / self.plan.batches.ranks
            duration.record(self.plan.costs.shape, tokens * len(steady) / sum(steady))


class MovingRanks(TrainerCallback):
    """AdaLoRA's ranks, moved after each step; without this it trains a plain LoRA of its first rank."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Move them while the gradients are still there."""
        if moves_ranks(model) and any(each.grad is not None for each in model.parameters()):
            core(model).base_model.update_and_allocate(state.global_step)


def early_stopping(plan: Plan) -> list[EarlyStoppingCallback]:
    """transformers' own, where the recipe asks for it."""
    config = plan.config.evaluation
    if config.early_stopping_patience is None:
        return []
    return [EarlyStoppingCallback(config.early_stopping_patience, config.early_stopping_threshold)]


def _numbers(logs: dict[str, Any]) -> dict[str, float]:
    """Those that are numbers; the gradient's norm in fp16 may be infinite, which JSON has no word for."""
    found = {name: float(value) for name, value in logs.items() if isinstance(value, (int, float))}
    return {name: value for name, value in found.items() if math.isfinite(value)}
