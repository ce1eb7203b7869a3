"""Raw splits of one source, read from the Hub, files or a folder. Knows no tokenizer, no task and no mixture."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    Dataset,
    IterableDataset,
    IterableDatasetDict,
    get_dataset_config_names,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationCastError, DatasetsError

from finetune.config.data import DatasetConfig, is_configured, is_saved
from finetune.config.suggest import did_you_mean
from finetune.data import files, media, streams
from finetune.data.shards import Array
from finetune.data.sources import FORMATS, DataSource, absolute, base, files_of, flat, local
from finetune.errors import UserError

VALIDATION_NAMES = ("validation", "valid", "val", "dev")
NOT_OF_ROWS = ("max_dropped", "path", "sources", "columns", "mixture", "streaming")
"""Keys of a data set that do not decide which of its rows are read."""


@dataclass(frozen=True)
class Split:
    """Raw rows, and where they came from in words."""

    rows: Dataset
    origin: str
    folders: tuple[Path, ...] = ()
    """Where its files lie, which names of further files are relative to."""
    numbers: Array | None = None
    """The number of each row in the split that it was cut from; None where the split is whole."""


def load(source: DataSource, seed: int) -> dict[str, Split]:
    """Load the splits of a source; cut a validation split where none is given.

    Raises:
        UserError: nothing is there, it cannot be read, or a split is missing or empty.
    """
    config = source.config
    found = _load(source)
    train = _named(found, config.train_split, "train_split")
    splits = {"train": Split(train, f"split {config.train_split}", _folders(config, config.train_split))}
    validation = config.validation_split or next(
        (n for n in VALIDATION_NAMES if n in found and n != config.train_split), None
    )
    if validation:
        rows = _named(found, validation, "validation_split")
        splits["validation"] = Split(rows, f"split {validation}", _folders(config, validation))
    else:
        rest, held = _cut(train, config, seed)
        whole = splits["train"]
        splits["train"] = _part(whole, rest)
        splits["validation"] = replace(_part(whole, held), origin=f"cut from {config.train_split} with seed {seed}")
    if config.test_split:
        rows = _named(found, config.test_split, "test_split")
        splits["test"] = Split(rows, f"split {config.test_split}", _folders(config, config.test_split))
    return {name: _first(split, config.limit) for name, split in splits.items()}


def _folders(config: DatasetConfig, split: str) -> tuple[Path, ...]:
    """The folders of the files that make a split, and that of the whole data set."""
    target = local(str(config.path))
    if target is None:
        return ()
    root, named = base(target), config.data_files
    own = flat(named.get(split, []) if isinstance(named, dict) else named or [])
    return tuple(dict.fromkeys([*((root / file).parent for file in own), root]))


def with_files(split: Split, columns: Sequence[str]) -> Split:
    """The split with the whole paths of files that rows name."""
    return replace(split, rows=media.located(split.rows, columns, split.folders)) if columns else split


def key_of(source: DataSource, split: str, found: Split, seed: int) -> dict[str, Any]:
    """Everything that decided the rows of a split; where it was cut, also the seed and whether of a stream."""
    chosen = {name: value for name, value in asdict(source.config).items() if name not in NOT_OF_ROWS}
    read = source.key or found.rows._fingerprint
    # A stream is cut from its first rows, a file from all of them.
    cut = {"seed": seed, "streaming": source.config.streaming} if found.numbers is not None else None
    return {"source": read, "split": split, **chosen, "cut": cut}


def _first(split: Split, limit: int | None) -> Split:
    if not limit or limit >= len(split.rows):
        return split
    numbers = None if split.numbers is None else split.numbers[:limit]
    return replace(split, rows=split.rows.select(range(limit)), numbers=numbers)


def _part(whole: Split, numbers: Array) -> Split:
    return replace(whole, rows=whole.rows.select(numbers), numbers=numbers)


def _load(source: DataSource) -> dict[str, Dataset]:
    config, target = source.config, local(str(source.config.path))
    try:
        with media.undecoded():
            found = _from_folder(target, config) if target else _from_hub(source)
            if isinstance(found, IterableDataset | IterableDatasetDict):
                found = streams.first_rows(found, config, source.key)
    except (DatasetsError, OSError, ValueError, TypeError) as error:
        if target:
            files.check(sorted(files_of(target, config)))
        raise UserError(f"dataset.path={config.path} cannot be read: {_cause(error)}") from None
    except (IndexError, StopIteration):  # how the library fails on a JSON file or a saved split without rows
        raise UserError(f"dataset.path={config.path} cannot be read: one of its splits has no rows") from None
    splits = found if isinstance(found, dict) else {"train": found}
    return {name: media.as_stored(rows) for name, rows in splits.items()}


def _from_hub(source: DataSource) -> Any:
    config, revision = source.config, source.key[1] if source.key else source.config.revision
    return load_dataset(
        str(config.path), config.name, revision=revision, data_files=config.data_files, streaming=config.streaming
    )


def _from_folder(path: Path, config: DatasetConfig) -> Any:
    if is_saved(path):
        return load_from_disk(str(path))
    named = absolute(config.data_files, base(path)) or ({"train": str(path)} if path.is_file() else None)
    if named is None:
        _check_links(path, config)
        return load_dataset(str(path), _configuration(path, config), streaming=config.streaming)
    found = [Path(file) for file in flat(named)]
    if empty := [file.name for file in found if file.is_file() and not file.stat().st_size]:
        raise UserError(f"dataset.path={config.path} cannot be read: {', '.join(empty)} is empty")
    return load_dataset(_format(named, config.format), data_files=named, streaming=config.streaming)


def _configuration(path: Path, config: DatasetConfig) -> str | None:
    """The one that is asked for, where the folder's README can declare any."""
    if not config.name or not is_configured(path, config.data_files):
        return None
    names = get_dataset_config_names(str(path))
    if config.name not in names:
        hint = did_you_mean(config.name, names)
        found = f"the folder has the configurations {', '.join(names)}. {hint}".rstrip()
        raise UserError(f"dataset.name={config.name}: {found}")
    return config.name


def _check_links(path: Path, config: DatasetConfig) -> None:
    """Refuse a folder with links to folders, whose rows `datasets` would leave out in silence."""
    linked = [Path(at, name) for at, names, _ in os.walk(path) for name in names if Path(at, name).is_symlink()]
    if linked:
        shown = ", ".join(sorted(str(each.relative_to(path)) for each in linked)[:5])
        raise UserError(
            f"dataset.path={config.path}: links to folders are not followed, such as {shown}. Put the folders "
            "themselves there, or name the files in dataset.data_files"
        )


def _format(named: Any, wanted: str) -> str:
    if wanted != "auto":
        return wanted
    first = Path(next(flat(named)))
    if first.suffix not in FORMATS:
        raise UserError(f"{first.name}: the format is not known by its ending. Write dataset.format=csv|json|…")
    return FORMATS[first.suffix]


def _named(found: dict[str, Dataset], name: str, key: str) -> Dataset:
    if name not in found:
        hint = did_you_mean(name, found)
        raise UserError(f"dataset.{key}={name}: the data has the splits {', '.join(found)}. {hint}".rstrip())
    if not len(found[name]):
        raise UserError(f"dataset.{key}={name}: the split has no rows")
    return found[name]


def _cut(train: Dataset, config: DatasetConfig, seed: int) -> tuple[Array, Array]:
    """The numbers of train and of validation rows, which share none."""
    column = _stratified(train, config) if config.stratify else None
    rows = Dataset.from_dict({"row": range(len(train))})
    try:
        rows = rows.add_column("label", train[column][:]).class_encode_column("label") if column else rows
        parts = rows.train_test_split(config.validation_size, seed=seed, stratify_by_column=column and "label")
    except ValueError as error:
        raise UserError(f"dataset.validation_size={config.validation_size} of {len(train)} rows: {error}") from None
    return np.asarray(parts["train"]["row"][:]), np.asarray(parts["test"]["row"][:])


def _stratified(train: Dataset, config: DatasetConfig) -> str:
    column = config.columns.get("label", "label")
    if column not in train.column_names:
        raise UserError(
            f"dataset.stratify needs a label column; write dataset.columns.label=NAME ({train.column_names})"
        )
    return column


def _cause(error: BaseException) -> str:
    """The innermost reason, which the library wraps in a general one; for columns that differ, the general one."""
    if isinstance(error, DatasetGenerationCastError):
        return " ".join(str(error).partition("Please either")[0].split())
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return (str(error).splitlines() or [type(error).__name__])[0]
