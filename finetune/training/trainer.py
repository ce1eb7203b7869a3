"""The task's own Trainer, assembled from a plan: their loop, our rows, our evaluation."""

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback

from finetune.config.options import resolve
from finetune.plan.plan import Plan

Score = Callable[[Any, Dataset], dict[str, float]]


def assemble(
    plan: Plan, model: Any, tokenizer: Any, rows: dict[str, Dataset], score: Score, checkpoints: str
) -> Trainer:
    """A trainer ready to run.

    Args:
        rows: prepared rows of `train` and `validation`.
        score: the evaluation used while training; the same one scores the finished model.
        checkpoints: the folder checkpoints go to.
    """
    task = plan.config.task
    arguments = resolve(task.arguments_class)(output_dir=checkpoints, **plan.arguments)
    trainer: Trainer = scored_by(score, resolve(task.trainer_class))(
        model=model,
        args=arguments,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        data_collator=task.collator(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def scored_by(score: Score, trainer_class: type[Trainer]) -> type[Trainer]:
    """The trainer class, evaluating the way we evaluate everywhere."""

    class Scored(trainer_class):  # type: ignore[misc,valid-type]
        def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            scores = score(self.accelerator.unwrap_model(self.model), rows)
            logged = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
            self.log(logged)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logged)
            return logged

    return Scored


def add_callbacks(trainer: Trainer, callbacks: Sequence[TrainerCallback]) -> None:
    """Ours come first: a guard stops the run before a tracker hears of it."""
    for callback in reversed(callbacks):
        trainer.callback_handler.callbacks.insert(0, callback)
