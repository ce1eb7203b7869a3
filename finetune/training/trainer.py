"""The task's own Trainer, assembled from a plan: their loop, our rows, our evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback

from finetune.config.options import resolve
from finetune.config.task import IGNORED, Facts, Task
from finetune.data.joined import identities
from finetune.data.rows import Rows
from finetune.errors import UserError
from finetune.evaluation.table import is_lower_better
from finetune.models import adapter
from finetune.plan import identity
from finetune.plan.batches import taken
from finetune.plan.plan import Plan
from finetune.training import collate, order, ranks, sharding
from finetune.training.order import Batches, Loader, Sizes
from finetune.training.resuming import Loading
from finetune.training.saving import Saving
from finetune.training.watched import Watched
from finetune.training.weighed import Weighed

Score = Callable[[Any, Rows], dict[str, float]]
SAMPLERS = ("batch_sampler", "no_duplicates")
"""Of sentence-transformers: as rows come, or no text twice in a step, which would be its own negative."""
Forward = Callable[[Any, dict[str, Any]], Any]
"""From a model and a batch to their `loss`, a mean over what its labels mark."""


@dataclass(frozen=True)
class Parts:
    """What a trainer is made of."""

    model: Any
    tokenizer: Any
    rows: dict[str, Rows]
    """Prepared rows of `train` and `validation`."""
    reference: Any | None = None
    """The untouched model, where the loss compares with one that is held beside."""


class StandIn(Dataset):
    """One row, which is all that TRL's trainers look at; it is prepared, so whatever they would do to it is done."""

    def map(self, *_: Any, **__: Any) -> "StandIn":
        """Itself."""
        return self


def assemble(plan: Plan, parts: Parts, score: Score, checkpoints: str) -> Trainer:
    """A trainer ready to run.

    Args:
        score: the evaluation used while training; the same one scores the finished model.
        checkpoints: the folder checkpoints go to.
    """
    task, seeds, rows = plan.config.task, identity.seeds(plan), parts.rows
    given = {**plan.arguments, "seed": seeds["init"], "restore_callback_states_from_checkpoint": True}
    if "fsdp_config" in given:
        given["fsdp_config"] = {**given["fsdp_config"], sharding.LAYERS: sharding.layers(parts.model)}
    arguments = resolve(task.arguments_class)(output_dir=checkpoints, **given)
    if given.get("greater_is_better") is None and arguments.metric_for_best_model:
        # Upstream takes the lower one of losses alone for the better.
        arguments.greater_is_better = not is_lower_better(arguments.metric_for_best_model)
    # One process trains on one GPU: where it sees several, the Trainer would wrap the model in DataParallel unasked.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    # TRL takes nothing but its own kind of data set, and looks at the first row; it never reads another one.
    stand_in = StandIn(Dataset.from_list([rows["train"][0]]).data)
    trainer = made(
        task.trainer_class,
        scored_by(score, resolve(task.trainer_class), _forward(task, plan.facts, parts.model)),
        model=parts.model,
        args=arguments,
        train_dataset=stand_in,
        eval_dataset=stand_in,
        processing_class=parts.tokenizer,
        data_collator=collator_of(parts.model, rows["train"], parts.tokenizer, task),
        **({"ref_model": parts.reference} if parts.reference is not None else {}),
        **task.trainer_parts(parts.model, plan.facts),
    )
    adapter.drop_copy(parts.model)
    trainer.train_dataset, trainer.eval_dataset = rows["train"], rows["validation"]
    trainer.data_seed = seeds["data"]  # type: ignore[attr-defined]
    trainer.remove_callback(PrinterCallback)
    return trainer


def made(name: str, trainer_class: type[Trainer], **given: Any) -> Trainer:
    """A trainer; what it refuses, such as an adapter that it cannot train, is the recipe's fault.

    Raises:
        UserError: in the library's words.
    """
    try:
        return trainer_class(**given)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"{name} refuses: {' '.join(str(error).split())}") from error


def collator_of(model: Any, rows: Rows, tokenizer: Any, task: Task) -> collate.Collate:
    """The task's own, or for packed rows the one that keeps documents apart."""
    if rows.is_packed:
        return collate.packed(model.config._attn_implementation, tokenizer.pad_token_id)
    return task.collator(tokenizer)


class Prepared:
    """Mixed in before a trainer class: rows are as they are trained, and carry what the reference says of them."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    _precompute_ref_logps = _prepare_dataset


class Ordered:
    """Mixed in before a trainer class: which rows a step sees does not depend on how many ranks take it."""

    def get_train_dataloader(self: Any) -> Loader:
        """Batches of this rank, with no sampler of the libraries in between."""
        args = self.args
        count, step = (
            len(self.train_dataset),
            args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        )
        rows = taken(count, step, args.dataloader_drop_last)
        sizes = Sizes(rows, args.train_batch_size, args.gradient_accumulation_steps, args.world_size)
        self.steps_per_epoch = -(-sizes.micro_batches // sizes.accumulation)
        batches = Batches(sizes, self.data_seed, ranks.rank(), order.first(self._order(step), count))
        return Loader(
            self.train_dataset,
            batches,
            self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
        )

    def _order(self: Any, step: int) -> order.Order:
        """As `train_sampling_strategy` says and, where the trainer has one, sentence-transformers' `batch_sampler`."""
        sampler = str(getattr(getattr(self.args, "batch_sampler", None), "value", SAMPLERS[0]))
        if sampler not in SAMPLERS:
            raise UserError(
                f"trainer.batch_sampler={sampler} cannot be resumed exactly. Write {' or '.join(SAMPLERS)}"
            )
        chosen = self._strategy(step)
        return chosen if sampler == SAMPLERS[0] else order.apart(chosen, identities(self.train_dataset), step)

    def _strategy(self: Any, step: int) -> order.Order:
        strategy = self.args.train_sampling_strategy
        if strategy == "group_by_length":
            return order.by_length(self.train_dataset.lengths, step)
        known = {"random": order.shuffled, "sequential": order.sequential}
        if strategy not in known:
            accepted = ", ".join([*known, "group_by_length"])
            raise UserError(f"trainer.train_sampling_strategy={strategy} cannot be resumed exactly. Write {accepted}")
        return known[strategy]


def _forward(task: Task, facts: Facts, model: Any) -> Forward | None:
    """The task's own, where the loss is not the model's; a trainer of another library has its own.

    Raises:
        UserError: the adapter adds to the model's loss, which nobody would see.
    """
    if type(task).forward is Task.forward or resolve(task.trainer_class) is not Trainer:
        return None
    if adapter.moves_ranks(model):
        raise UserError(
            f"task={task.name} has a loss of its own, and this adapter adds to the model's. Write adapter=lora"
        )
    return partial(task.forward, facts=facts)


def scored_by(score: Score, trainer_class: type[Trainer], forward: Forward | None = None) -> type[Trainer]:
    """The trainer class, evaluating the way we evaluate everywhere, with a loss that ignores how a batch is cut."""

    class Scored(Prepared, Ordered, Watched, Weighed, Loading, Saving, trainer_class):  # type: ignore[misc,valid-type]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if self.label_smoother is not None:
                inputs = _with_decoder_inputs(self.accelerator.unwrap_model(model), inputs)
            whole = num_items_in_batch is None or trainer_class.compute_loss is not Trainer.compute_loss
            if whole and forward is None:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            # Counted first: where labels are smoothed, upstream takes them out of the inputs.
            items = None if whole else _items(inputs, self._loss_shifts_labels)
            loss, outputs = self._mean_loss(model, inputs)
            if whole:
                return (loss, outputs) if return_outputs else loss
            share = items / num_items_in_batch
            loss = loss * share * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
            return (loss, outputs) if return_outputs else loss

        def _mean_loss(self, model: Any, inputs: Any) -> tuple[Any, Any]:
            if forward is None:
                return super().compute_loss(model, inputs, return_outputs=True)
            outputs = forward(model, inputs)
            return outputs.loss, outputs

        def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            scores = score(self.accelerator.unwrap_model(self.model), rows)
            logged = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
            self.log(logged)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logged)  # type: ignore[has-type]
            return logged

    return Scored


def _with_decoder_inputs(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """An encoder-decoder makes them from labels, which the Trainer takes away where it smooths them.

    T5 then refuses to run, and BART's decoder reads the source in place of the target.
    """
    make = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    return {**inputs, "decoder_input_ids": make(labels=inputs["labels"])} if make else inputs


def _items(inputs: dict[str, Any], shifted: bool) -> Any:
    """What the model's mean loss of a micro-batch is a mean over, counted as `num_items_in_batch` counts it.

    The Trainer hands that number to the model and takes the answer for a sum over it. 240 heads of transformers,
    BERT's among them, take the number and return the mean: with N micro-batches, N times the gradient.
    """
    labels = inputs["labels"][..., 1:] if shifted else inputs["labels"]
    return labels.ne(IGNORED).sum()


def add_callbacks(trainer: Trainer, callbacks: Sequence[TrainerCallback]) -> None:
    """Ours come first: a guard stops the run before a tracker hears of it."""
    for callback in reversed(callbacks):
        trainer.callback_handler.callbacks.insert(0, callback)
