"""What the untouched model says of rows, for tasks whose loss compares with it: asked once, kept in the run's folder.

Rows that are scored carry it as a column, so that any process can score any model by one forward pass. Knows the
folder of a run and how rows are scored; knows no task by name.
"""

import logging
from typing import Any

import numpy as np

from finetune.data.rows import Rows
from finetune.evaluation.evaluate import Evaluation
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder
from finetune.training import ranks

log = logging.getLogger(__name__)

COLUMN, FOLDER = "reference", "reference"
PRECOMPUTED = "precompute_ref_log_probs"
"""TRL's argument: the reference is asked about all training rows before the first step, and not needed after."""


def is_precomputed(plan: Plan) -> bool:
    """Whether training rows carry what the reference says as well."""
    return plan.config.task.compares and bool(plan.arguments.get(PRECOMPUTED))


def is_held(plan: Plan) -> bool:
    """Whether training needs a second model: an adapter is its own reference where it is switched off."""
    return plan.config.task.compares and plan.config.adapter["method"] == "full" and not is_precomputed(plan)


def compared(
    plan: Plan, folder: RunFolder, rows: dict[str, Rows], evaluation: Evaluation, base: Any
) -> dict[str, Rows]:
    """The rows of each split, with what the base says of those that are compared with it."""
    if not plan.config.task.compares:
        return rows
    wanted = [split for split in rows if split != "train" or is_precomputed(plan)]
    return rows | {split: _asked(plan, folder, rows[split], split, evaluation, base) for split in wanted}


def carried(plan: Plan, folder: RunFolder, rows: Rows, split: str) -> Rows | None:
    """The rows with what was kept of them; None where the base has not been asked about this split."""
    if not plan.config.task.compares:
        return rows
    file = folder / FOLDER / f"{split}.npz"
    if not file.is_file():
        return None
    kept = np.load(file)
    return rows.with_columns(**{COLUMN: kept["said"]}) if str(kept["rows"]) == plan.rows else None


def _asked(plan: Plan, folder: RunFolder, rows: Rows, split: str, evaluation: Evaluation, base: Any) -> Rows:
    found = carried(plan, folder, rows, split)
    if found is None:
        log.info("asking the untouched model about %d rows of %s", len(rows), split)
        said = evaluation.reference(base, rows)
        if ranks.is_first():
            (folder / FOLDER).mkdir(exist_ok=True)
            staged = folder / FOLDER / f".{split}.npz"
            np.savez(staged, said=said, rows=plan.rows)
            staged.replace(folder / FOLDER / f"{split}.npz")
        found = rows.with_columns(**{COLUMN: said})
    return found
