"""Raw splits from the Hub, files and folders. Knows no tokenizer and no task."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationCastError, DatasetsError

from finetune.config import recipes
from finetune.config.schema import DatasetConfig
from finetune.config.suggest import did_you_mean
from finetune.errors import UserError

FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow", ".txt": "text"}
VALIDATION_NAMES = ("validation", "valid", "val", "dev")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """Raw rows by the name of their split, and where each came from in words."""

    rows: dict[str, Dataset]
    notes: dict[str, str] = field(default_factory=dict)


def load(config: DatasetConfig, seed: int) -> Splits:
    """Load the splits of a data set; cut a validation split where none is given.

    Raises:
        UserError: nothing is there, it cannot be read, or a split is missing or empty.
    """
    found = _load(config)
    train = _named(found, config.train_split, "train_split")
    rows, notes = {"train": train}, {"train": f"{config.path} split {config.train_split}"}
    validation = config.validation_split or next(
        (n for n in VALIDATION_NAMES if n in found and n != config.train_split), None
    )
    if validation:
        rows["validation"] = _named(found, validation, "validation_split")
        notes["validation"] = f"{config.path} split {validation}"
    else:
        rows["train"], rows["validation"] = _cut(train, config, seed)
        notes["validation"] = f"cut from {config.train_split} with seed {seed}"
    if config.test_split:
        rows["test"] = _named(found, config.test_split, "test_split")
        notes["test"] = f"{config.path} split {config.test_split}"
    limited = {name: part.select(range(min(config.limit or len(part), len(part)))) for name, part in rows.items()}
    return Splits(limited, notes)


def _load(config: DatasetConfig) -> dict[str, Dataset]:
    local = _local(config.path)
    try:
        found = _from_folder(local, config) if local else _from_hub(config)
    except (DatasetsError, OSError, ValueError) as error:
        if local:
            _check_lines(local)
        raise UserError(f"dataset.path={config.path} cannot be read: {_cause(error)}") from None
    except (IndexError, StopIteration):  # how the library fails on a JSON file or a saved split without rows
        raise UserError(f"dataset.path={config.path} cannot be read: one of its splits has no rows") from None
    return dict(found) if isinstance(found, DatasetDict) else {"train": found}


def _local(path: str) -> Path | None:
    """The file or folder behind a path that is not a Hub id."""
    if path.startswith(recipes.SCHEME):
        return recipes.locate(path)
    target = Path(path).expanduser()
    if target.exists():
        return target.resolve()
    if path.startswith((".", "/", "~")) or target.suffix in FORMATS:
        siblings = [file.name for file in target.parent.iterdir()] if target.parent.is_dir() else []
        raise UserError(f"dataset.path={path}: there is no such file or folder. {did_you_mean(target.name, siblings)}")
    return None


def _from_hub(config: DatasetConfig) -> Any:
    return load_dataset(config.path, config.name, revision=config.revision, data_files=config.data_files)


def _from_folder(path: Path, config: DatasetConfig) -> Any:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return load_from_disk(str(path))
    files = _absolute(config.data_files, path) or ({"train": str(path)} if path.is_file() else None)
    if files is None:
        return load_dataset(str(path))
    found = [Path(file) for file in _flat(files)]
    if empty := [file.name for file in found if file.is_file() and not file.stat().st_size]:
        raise UserError(f"dataset.path={config.path} cannot be read: {', '.join(empty)} is empty")
    return load_dataset(_format(files, config.format), data_files=files)


def _flat(files: Any) -> Iterator[str]:
    """Every file of `data_files`, however they are grouped."""
    if isinstance(files, str):
        yield files
    else:
        for part in files.values() if isinstance(files, dict) else files:
            yield from _flat(part)


def _check_lines(path: Path) -> None:
    """Name the line that is not JSON, which the library counts within a block of the file."""
    for file in sorted(path.rglob("*.jsonl")) if path.is_dir() else [path] if path.suffix == ".jsonl" else []:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    json.loads(line if line.strip() else "null")
                except ValueError as error:
                    raise UserError(f"{file.name}:{number} is not JSON: {error}") from None


def _absolute(files: Any, root: Path) -> Any:
    """`data_files` relative to the folder of the data set; each must exist."""
    if not files:
        return None
    if isinstance(files, dict):
        return {split: _absolute(part, root) for split, part in files.items()}
    if isinstance(files, list):
        return [_absolute(part, root) for part in files]
    if not (root / files).is_file() and (Path(files).is_absolute() or not list(root.glob(files))):
        names = [file.name for file in root.iterdir()]
        raise UserError(f"dataset.data_files: {files} is not in {root.name}. {did_you_mean(files, names)}".rstrip())
    return str(root / files)


def _format(files: Any, wanted: str) -> str:
    if wanted != "auto":
        return wanted
    first = Path(next(_flat(files)))
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


def _cut(train: Dataset, config: DatasetConfig, seed: int) -> tuple[Dataset, Dataset]:
    """Train and validation rows that share none."""
    column = _stratified(train, config) if config.stratify else None
    rows = Dataset.from_dict({"row": range(len(train))})
    try:
        rows = rows.add_column("label", train[column][:]).class_encode_column("label") if column else rows
        parts = rows.train_test_split(config.validation_size, seed=seed, stratify_by_column=column and "label")
    except ValueError as error:
        raise UserError(f"dataset.validation_size={config.validation_size} of {len(train)} rows: {error}") from None
    return train.select(parts["train"]["row"]), train.select(parts["test"]["row"])


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
