"""One evaluation for every stage: before training, during it, after it, and in another process.

The loss is exact, the sum over all items divided by their number, whatever the batch size; logits are reduced batch by
batch and never kept, so memory does not grow with the rows.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
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

    @torch.no_grad()
    def _scores(self, model: Any, rows: Rows) -> dict[str, float]:
        losses, means = {name: Mean() for name in rows.by_source}, defaultdict[str, Mean](Mean)
        predictions, references = [], []
        for source, _, batch in self._batches(rows, computes_on(model)):
            with autocast(self.compute):
                output = self.task.forward(scored(model), batch, self.facts)
            losses[source].add(float(output.loss), self.task.weight(batch))
            logits = _of_rows(output.logits, batch, model)
            for name, values in self.task.means(logits, batch).items():
                means[name].add(float(values.float().mean()), len(values))
            predicted, expected = self.task.outcomes(logits, batch)
            predictions.append(_array(predicted))
            references.append(_array(expected))
        judged = self.task.judged(_joined(predictions), _joined(references), self.facts)
        found = metrics.compute(self.names, *judged)
        return {**_named(losses), **found, **{name: mean.value for name, mean in means.items()}}

    @torch.no_grad()
    def reference(self, model: Any, rows: Rows) -> np.ndarray:
        """What a model that is not trained yet says of each row; (rows, numbers), fp32."""
        model.eval()
        said: dict[int, np.ndarray] = {}
        for _, indices, batch in self._batches(rows, model.device):
            with autocast(self.compute):
                found = self.task.reference(model, batch, self.facts)
            said.update(zip(indices, found.float().cpu().numpy(), strict=True))
        return np.stack([said[at] for at in range(len(rows))])

    def _batches(self, rows: Rows, device: torch.device) -> Iterator[tuple[str, list[int], dict[str, Any]]]:
        """A source after the other, its longest rows first: little padding, and what does not fit fails at once."""
        for source, indices in rows.by_source.items():
            order = indices[np.argsort(-rows.lengths[indices], kind="stable")]
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size].tolist()
                batch = self.collate(rows.__getitems__(chosen))
                yield source, chosen, {name: value.to(device) for name, value in batch.items()}


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
