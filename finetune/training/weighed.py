"""A mean over rows stays one however a step is cut. Mixed in before a trainer class.

The micro-batches of an epoch's last step may differ by a row, and trainers average their losses as if they did not.
Losses over labels are scaled by their items instead, and are left alone. Of several ranks each weighs its own part.
"""

from typing import Any


class Weighed:
    """Mixed in before a trainer class."""

    rows_of_step: tuple[int, ...] = ()
    """Of each micro-batch of the running step."""

    def get_batch_samples(self: Any, *arguments: Any) -> Any:
        """As upstream's, counted."""
        batches, items = super().get_batch_samples(*arguments)  # type: ignore[misc]
        self.rows_of_step = tuple(map(_rows, batches))
        return batches, items

    def compute_loss(
        self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As upstream's, by the share of rows where micro-batches differ."""
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        if "labels" in inputs or len(set(self.rows_of_step)) < 2:
            return found
        share = _rows(inputs) * len(self.rows_of_step) / sum(self.rows_of_step)
        return (found[0] * share, *found[1:]) if return_outputs else found * share


def _rows(batch: dict[str, Any]) -> int:
    """Rows, or what stands for them: only shares of it count."""
    return len(next(iter(batch.values())))
