"""The first rows of sources that are too large to fetch or to convert whole, read as a stream. Knows no task.

What a run of so many steps can use is read, a few thousand rows at a time, and nothing behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune.config.cache import cache_folder
from finetune.config.data import DatasetConfig
from finetune.config.schema import Config
from finetune.data.store import key
from finetune.errors import UserError
from finetune.models import processes

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def bounded(config: Config) -> DatasetConfig:
    """The data set with the number of rows that a run can use, where it is streamed.

    Raises:
        UserError: nothing says how many.
        MachineError: there is to be one process for each accelerator, and there is none.
    """
    data = config.dataset
    if not data.streaming or data.limit:
        return data
    steps = int(config.trainer.get("max_steps", -1))
    if steps < 1 or config.packing.strategy != "none":
        raise UserError(
            "dataset.streaming=true needs dataset.limit, the rows to read"
            + ("; how many fill packed rows is not known before" if steps > 0 else ", or trainer.max_steps")
        )
    return replace(data, limit=max(1, math.ceil(steps * _rows_a_step(config) * (1 + data.max_dropped))))


def _rows_a_step(config: Config) -> int:
    """Of all processes together; they are counted only where no global batch is written."""
    given = config.trainer
    each = int(given.get("per_device_train_batch_size", 8)) * int(given.get("gradient_accumulation_steps", 1))
    return config.global_batch_size or each * processes.ranks(config.launch)


def first_rows(found: Any, config: DatasetConfig, identity: Any) -> dict[str, Dataset]:
    """The first rows of each split, kept on disk as they come.

    Args:
        found: what `load_dataset(…, streaming=True)` gives.
        identity: of the source's content.
    Raises:
        UserError: nothing tells the content, so what is kept could be another's.
    """
    from datasets import IterableDatasetDict

    if identity is None:
        raise UserError(
            f"dataset.streaming=true: the Hub does not say which commit of {config.path} is read. Write "
            "dataset.revision=COMMIT, or dataset.streaming=false"
        )
    size = config.validation_size
    limit = config.limit or 0
    # Enough that a validation split can still be cut off.
    count = limit + (size if isinstance(size, int) else math.ceil(limit * size / (1 - size)))
    splits = found if isinstance(found, IterableDatasetDict) else {"train": found}
    read = {"of": identity, "name": config.name, "files": config.data_files, "format": config.format, "rows": count}
    folder = cache_folder() / "streams"
    return {
        str(name): _kept(rows, count, str(folder / key({**read, "split": str(name)})))
        for name, rows in splits.items()
        if name in (config.train_split, config.test_split, config.validation_split) or not config.validation_split
    }


def _kept(rows: IterableDataset, count: int, folder: str) -> Dataset:
    from datasets import Dataset

    from finetune.data import media

    rows = media.as_stored(rows)

    def first() -> Iterator[dict[str, Any]]:
        yield from rows.take(count)

    # The folder is named by the content: the library's own fingerprint of a generator is not.
    kept: Dataset = Dataset.from_generator(first, features=rows.features, cache_dir=folder, fingerprint="rows")
    return kept
