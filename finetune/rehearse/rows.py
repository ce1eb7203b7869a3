"""A few rows of the recipe's own data where that is at hand, else made ones with its columns.

Knows data sets and what a task says its rows look like. Knows no model.
"""

from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict, IterableDatasetDict, load_dataset
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError  # type: ignore[attr-defined]

from finetune.config.data import DatasetConfig
from finetune.config.launch import LaunchConfig
from finetune.config.schema import Config
from finetune.data import media, sources, splits, streams
from finetune.data.sources import DataSource
from finetune.errors import UserError
from finetune.rehearse import known
from finetune.rehearse.tokenizer import texts_of

COUNTS = (16, 512, 8192)
"""Rows to train on, more where a task cannot do with few: labels that are rare, rows that are long."""
SCORED = 8
MADE = {"train": 16, "validation": SCORED, "test": SCORED}
TIMEOUT = 10


@dataclass(frozen=True)
class Rows:
    """Splits called train, validation and, where the recipe names one, test."""

    splits: dict[str, Dataset]
    said: str
    """Where the rows came from."""
    are_real: bool

    def saved(self, folder: Path, config: DatasetConfig) -> DatasetConfig:
        """The config of these rows, saved in a folder; their columns play the roles they did."""
        DatasetDict(self.splits).save_to_disk(str(folder))
        return replace(
            _at(config, folder),
            train_split="train",
            validation_split="validation",
            test_split="test" if "test" in self.splits else None,
            stratify=False,
            limit=None,
            streaming=False,
            max_dropped=0.99,  # of so few rows, one that is dropped is a large share
        )

    def texts(self) -> list[str]:
        """Every text in the rows to train on."""
        return list(texts_of(self.splits["train"].to_list()))


def find(config: Config, count: int, folder: Path) -> Rows:
    """About `count` rows to train on and a few to score; of the first source where there are several.

    Args:
        folder: for what is fetched from the Hub.
    Raises:
        UserError: the data is at hand and cannot be read, a stream has no end, or the Hub has no such data set.
    """
    # A rehearsal is one process, on a machine that need not have what the run is launched on.
    data = sources.parts(streams.bounded(replace(config, launch=LaunchConfig())))[0]
    path = str(data.path)
    if _is_local(path):
        return _real(_loaded(config, _streamed(data, count)), count, f"of {path}")
    if _is_on_hub(data):
        return _real(_loaded(config, _heads(data, count, folder)), count, f"of the first of {path}")
    if _is_cached(path):
        return _real(_loaded(config, replace(data, streaming=False)), count, f"of {path}")
    return _made(config)


def _streamed(data: DatasetConfig, count: int) -> DatasetConfig:
    """No more of a stream than is looked at."""
    return replace(data, limit=min(data.limit, 4 * count)) if data.streaming and data.limit else data


def _loaded(config: Config, data: DatasetConfig) -> dict[str, Dataset]:
    identity = sources.identity(data) if data.streaming else None
    found, task = splits.load(DataSource(sources.ONLY, data, identity), config.seed), config.task
    columns = task.files(task.describe(found["train"].rows, data.columns)) if task.media else []
    return {name: splits.with_files(split, columns).rows for name, split in found.items()}


def _is_local(path: str) -> bool:
    """Whether it is no Hub id; what looks like a path and is not there is refused where it is loaded."""
    return (
        "://" in path
        or path.startswith((".", "/", "~"))
        or Path(path).exists()
        or Path(path).suffix in sources.FORMATS
    )


def _is_on_hub(data: DatasetConfig) -> bool:
    """Whether the Hub answers, and has it.

    Raises:
        UserError: it answers, and has no such data set.
    """
    try:
        HfApi().dataset_info(str(data.path), revision=data.revision, timeout=TIMEOUT)
    except RepositoryNotFoundError:
        raise UserError(
            f"dataset.path={data.path}: it is not a folder here, and the Hub has no such data set"
        ) from None
    except (OfflineModeIsEnabled, HTTPError, OSError):
        return False
    return True


def _is_cached(path: str) -> bool:
    """Whether the library has prepared the data set before."""
    owner, _, name = path.rpartition("/")
    folder = "___".join(filter(None, (owner, camelcase_to_snakecase(name))))
    return any(Path(datasets.config.HF_DATASETS_CACHE).glob(f"{folder}/**/*.arrow"))


def _heads(data: DatasetConfig, count: int, folder: Path) -> DatasetConfig:
    """The first rows of each split, streamed, so that no more is fetched than is used."""
    found = load_dataset(data.path, data.name, revision=data.revision, data_files=data.data_files, streaming=True)
    streamed = found if isinstance(found, IterableDatasetDict) else {"train": found}
    streamed = {name: media.as_stored(rows) for name, rows in streamed.items()}
    wanted = {data.train_split, data.validation_split, data.test_split, *splits.VALIDATION_NAMES}
    with media.undecoded():
        heads = {
            str(name): media.as_stored(Dataset.from_list(list(rows.take(4 * count)), features=rows.features))
            for name, rows in streamed.items()
            if name in wanted
        }
    DatasetDict(heads).save_to_disk(str(folder))
    size = data.validation_size if data.validation_size < 1 else 0.25
    return replace(_at(data, folder), validation_size=size, streaming=False)


def _at(data: DatasetConfig, folder: Path) -> DatasetConfig:
    return replace(data, path=str(folder), name=None, revision=None, data_files=None, format="auto")


def _real(splits: dict[str, Dataset], count: int, where: str) -> Rows:
    chosen = {name: _chosen(rows, count if name == "train" else SCORED) for name, rows in splits.items()}
    return Rows(chosen, f"{len(chosen['train'])} {where}", are_real=True)


def _chosen(rows: Dataset, count: int) -> Dataset:
    """Rows from the whole split, rather short ones: of four times as many, those between a quarter and a half."""
    spread = range(0, len(rows), max(1, len(rows) // (4 * count)))
    picked = rows.select(spread)
    lengths = [sum(map(len, texts_of(row))) for row in picked]
    order = sorted(range(len(picked)), key=lambda at: lengths[at])
    start = count if len(order) >= 2 * count else 0
    return picked.select(sorted(order[start : start + count]))


def _made(config: Config) -> Rows:
    """Rows like those of the data set, by the table, else as the task says."""
    data = sources.parts(config.dataset)[0]
    table = known.rows(str(data.path))
    rows = table or config.task.example(data.columns)
    said = "recipes/offline.yaml" if table else f"the columns {', '.join(rows[0])}"
    counts = {name: count for name, count in MADE.items() if name != "test" or data.test_split}
    made = {name: Dataset.from_list(list(islice(cycle(rows), count))) for name, count in counts.items()}
    return Rows(made, f"{MADE['train']} made up, by {said}", are_real=False)
