"""One evaluation for every stage: before training, during it, after it, and in another process.

The loss is exact, the sum over all items divided by their number, whatever the batch size; logits are reduced batch by
batch and never kept, so memory does not grow with the rows.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune.config.task import Facts, Task
from finetune.data.rows import Rows
from finetune.errors import UserError
from finetune.evaluation import metrics
from finetune.models.adapter import learns_prompt, scored
from finetune.models.precision import autocast
from finetune.models.sharded import computes_on


@dataclass
class Mean:
    """A mean over all items of what batches give as their own means."""

    total: float = 0.0
    items: int = 0

    def add(self, mean: float, items: int) -> None:
        """Take in a batch."""
        self.total, self.items = self.total + mean * items, self.items + items

    @property
    def value(self) -> float:
        """The mean so far."""
        return self.total / max(self.items, 1)


@dataclass(frozen=True)
class Scored:
    """What one batch adds to the scores."""

    source: str
    loss: tuple[float, int]
    """The mean, and over how many items."""
    means: dict[str, tuple[float, int]]
    predicted: np.ndarray
    expected: np.ndarray


Batch = tuple[str, list[int]]
"""A source, and the rows of it that are scored at once."""
Spread = Callable[[Sequence[Any], Callable[[Any], Any]], list[Any]]
"""How work is done: from pieces and what is done with one to the results, in the order of the pieces."""


def alone(pieces: Sequence[Any], do: Callable[[Any], Any]) -> list[Any]:
    """All of it by this process."""
    return list(map(do, pieces))


@dataclass(frozen=True)
class Evaluation:
    """How rows are scored: the same for every model they are scored with."""

    task: Task
    facts: Facts
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    compute: str
    """The dtype of matrix products."""
    batch_size: int
    names: tuple[str, ...]
    """The metrics."""
    spread: Spread = alone
    """Who scores which batch; the figures are the same to the last digit."""

    def __call__(self, model: Any, rows: Rows) -> dict[str, float]:
        """Scores of a model on prepared rows.

        Raises:
            UserError: the loss is not a finite number.
        """
        was_training = model.training
        model.eval()
        try:
            scores = self._scores(model, rows)
        finally:
            model.train(was_training)
        if not np.isfinite(scores["loss"]):
            raise UserError(
                f"the evaluation loss is {scores['loss']}: the model produces no finite numbers on this data"
            )
        return self.task.summarize(scores)

    def _scores(self, model: Any, rows: Rows) -> dict[str, float]:
        parts = self.spread(self._batches(rows), lambda batch: self._scored(model, rows, batch))
        losses, means = {name: Mean() for name in rows.by_source}, defaultdict[str, Mean](Mean)
        for part in parts:
            losses[part.source].add(*part.loss)
            for name, mean in part.means.items():
                means[name].add(*mean)
        predictions, references = ([getattr(part, side) for part in parts] for side in ("predicted", "expected"))
        judged = self.task.judged(_joined(predictions), _joined(references), self.facts)
        found = metrics.compute(self.names, *judged)
        return {**_named(losses), **found, **{name: mean.value for name, mean in means.items()}}

    @torch.no_grad()
    def _scored(self, model: Any, rows: Rows, batch: Batch) -> Scored:
        source, indices = batch
        given = self._collated(rows, indices, computes_on(model))
        with autocast(self.compute):
            output = self.task.forward(scored(model), given, self.facts)
        loss = (float(output.loss), self.task.weight(given))
        logits = _of_rows(output.logits, given, model)
        means = {name: (float(values.float().mean()), len(values))
                 for name, values in self.task.means(logits, given).items()}  # fmt: skip
        return Scored(source, loss, means, *map(_array, self.task.outcomes(logits, given)))

    @torch.no_grad()
    def reference(self, model: Any, rows: Rows) -> np.ndarray:
        """What a model that is not trained yet says of each row; (rows, numbers), fp32."""
        model.eval()

        def said(batch: Batch) -> np.ndarray:
            with autocast(self.compute):
                found = self.task.reference(model, self._collated(rows, batch[1], model.device), self.facts)
            return _array(found)

        batches = self._batches(rows)
        every = np.concatenate(self.spread(batches, said))
        places = np.concatenate([indices for _, indices in batches])
        return every[np.argsort(places)]

    def _batches(self, rows: Rows) -> list[Batch]:
        """A source after the other, its longest rows first: little padding, and what does not fit fails at once."""
        found = []
        for source, indices in rows.by_source.items():
            order = indices[np.argsort(-rows.lengths[indices], kind="stable")].tolist()
            found += [(source, order[at : at + self.batch_size]) for at in range(0, len(order), self.batch_size)]
        return found

    def _collated(self, rows: Rows, indices: list[int], device: torch.device) -> dict[str, Any]:
        return {name: value.to(device) for name, value in self.collate(rows.__getitems__(indices)).items()}


def _named(losses: dict[str, Mean]) -> dict[str, float]:
    """The loss over all rows, and of each source where there are several."""
    whole = Mean(sum(loss.total for loss in losses.values()), sum(loss.items for loss in losses.values()))
    apart = {f"{source}_loss": loss.value for source, loss in losses.items()} if len(losses) > 1 else {}
    return {"loss": whole.value, **apart}


def _of_rows(logits: torch.Tensor, batch: dict[str, torch.Tensor], model: Any) -> torch.Tensor:
    """Without the positions that prompt tuning puts before what has labels."""
    is_longer = logits.ndim > 2 and learns_prompt(model)
    return logits[:, -batch["labels"].shape[1] :] if is_longer else logits


def _array(values: torch.Tensor) -> np.ndarray:
    """NumPy has no bf16; whole numbers stay exact."""
    found: np.ndarray = (values.float() if values.is_floating_point() else values).cpu().numpy()
    return found


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Batches end to end; whole numbers as integers, which is what labels are compared as."""
    values = np.concatenate(parts)
    return values.astype(np.int64) if np.array_equal(values, values.round()) else values
