"""The task's own Trainer, assembled from a plan: their loop, our rows, our evaluation."""

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback

from finetune.config.options import resolve
from finetune.config.task import Task
from finetune.data.rows import Rows
from finetune.plan.plan import Plan
from finetune.training import collate

Score = Callable[[Any, Rows], dict[str, float]]


def assemble(plan: Plan, model: Any, tokenizer: Any, rows: dict[str, Rows], score: Score, checkpoints: str) -> Trainer:
    """A trainer ready to run.

    Args:
        rows: prepared rows of `train` and `validation`.
        score: the evaluation used while training; the same one scores the finished model.
        checkpoints: the folder checkpoints go to.
    """
    task = plan.config.task
    arguments = resolve(task.arguments_class)(output_dir=checkpoints, **plan.arguments)
    # One process trains on one GPU: where it sees several, the Trainer would wrap the model in DataParallel unasked.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    # TRL takes nothing but its own kind of data set, and looks at the first row; it never reads another one.
    stand_in = Dataset.from_list([rows["train"][0]])
    trainer: Trainer = scored_by(score, resolve(task.trainer_class))(
        model=model,
        args=arguments,
        train_dataset=stand_in,
        eval_dataset=stand_in,
        processing_class=tokenizer,
        data_collator=collator_of(model, rows["train"], tokenizer, task),
    )
    trainer.train_dataset, trainer.eval_dataset = rows["train"], rows["validation"]
    trainer.remove_callback(PrinterCallback)
    return trainer


def collator_of(model: Any, rows: Rows, tokenizer: Any, task: Task) -> collate.Collate:
    """The task's own, or for packed rows the one that keeps documents apart."""
    if rows.is_packed:
        return collate.packed(model.config._attn_implementation, tokenizer.pad_token_id)
    return task.collator(tokenizer)


def scored_by(score: Score, trainer_class: type[Trainer]) -> type[Trainer]:
    """The trainer class, evaluating the way we evaluate everywhere, with a loss that ignores how a batch is cut."""

    class Scored(trainer_class):  # type: ignore[misc,valid-type]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if num_items_in_batch is None or trainer_class.compute_loss is not Trainer.compute_loss:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            share = _items(inputs, self._loss_shifts_labels) / num_items_in_batch
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            loss = loss * share * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
            return (loss, outputs) if return_outputs else loss

        def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            scores = score(self.accelerator.unwrap_model(self.model), rows)
            logged = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
            self.log(logged)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logged)  # type: ignore[has-type]
            return logged

    return Scored


def _items(inputs: dict[str, Any], shifted: bool) -> Any:
    """What the model's mean loss of a micro-batch is a mean over, counted as `num_items_in_batch` counts it.

    The Trainer hands that number to the model and takes the answer for a sum over it. 240 heads of transformers,
    BERT's among them, take the number and return the mean: with N micro-batches, N times the gradient.
    """
    labels = inputs["labels"][..., 1:] if shifted else inputs["labels"]
    return labels.ne(-100).sum()


def add_callbacks(trainer: Trainer, callbacks: Sequence[TrainerCallback]) -> None:
    """Ours come first: a guard stops the run before a tracker hears of it."""
    for callback in reversed(callbacks):
        trainer.callback_handler.callbacks.insert(0, callback)
