"""Which sources make a data set, and what identifies the rows of each before they are read: hashes or a commit.

Knows paths and names. Reads no row.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

from finetune.config import recipes
from finetune.config.data import DatasetConfig, SourceConfig, is_configured
from finetune.config.suggest import did_you_mean
from finetune.data.files import check, file_hash
from finetune.errors import UserError

FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow", ".txt": "text"}
ONLY = "data"
"""What the one source of a data set is called: nothing that belongs to where it lies."""
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class DataSource:
    """One source: how it is written, what it is called, and what identifies its content."""

    name: str
    config: DatasetConfig
    key: Any
    """Hashes of files or a commit; None where only reading it would tell."""


def sources_of(config: DatasetConfig) -> list[DataSource]:
    """The sources of a data set.

    Raises:
        UserError: there is none, a file is missing, two have one name, or one has a key that nothing reads.
    """
    if config.path and config.sources:
        raise UserError("dataset.path and dataset.sources are both set; write every source under dataset.sources")
    if not config.path and not config.sources:
        raise UserError("dataset.path must be set: a Hub id, a file or a folder; or dataset.sources, a list of them")
    for source, part in zip(config.sources, parts(config)):
        _check_read(source, part)
    names = [source.label or _short(source.path) for source in config.sources] or [ONLY]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(f"dataset.sources: {', '.join(sorted(doubled))} is there twice; name them apart with label=…")
    return [DataSource(name, part, identity(part)) for name, part in zip(names, parts(config))]


def _check_read(source: SourceConfig, config: DatasetConfig) -> None:
    """Refuse keys of a source of this machine that nothing reads."""
    target = local(source.path)
    if target is None:
        return
    if source.revision:
        raise UserError(
            f"dataset.sources: revision={source.revision} of {source.path} is read by nothing: it is no repository of "
            "the Hub. Leave revision out"
        )
    if source.name and not is_configured(target, config.data_files):
        raise UserError(
            f"dataset.sources: name={source.name} of {source.path} is read by nothing: configurations are declared by "
            "the README.md of a folder that is read without data_files. Leave name out"
        )


def parts(config: DatasetConfig) -> list[DatasetConfig]:
    """Each source as a data set of its own."""
    return [_as_dataset(config, source) for source in config.sources] or [config]


def _as_dataset(config: DatasetConfig, source: SourceConfig) -> DatasetConfig:
    """A source with what it shares with the others."""
    own = {name: value for name, value in asdict(source).items() if value and name in asdict(config)}
    return DatasetConfig(**{**asdict(config), **own, "sources": []})


def _short(path: str) -> str:
    """The last part of a path, as a name that can stand in a metric's."""
    return re.sub(r"\W+", "_", Path(path).stem)


def identity(config: DatasetConfig) -> Any:
    """What tells the content of a source without reading its rows, the same wherever its files lie."""
    if found := local(str(config.path)):
        return [[os.path.relpath(file, base(found)), file_hash(file)] for file in sorted(files_of(found, config))]
    if config.revision and COMMIT.fullmatch(config.revision):
        return [config.path, config.revision]
    try:
        return [config.path, HfApi().dataset_info(str(config.path), revision=config.revision, timeout=10).sha]
    except (HTTPError, OfflineModeIsEnabled, OSError, ValueError):
        return None


def covered(config: DatasetConfig) -> set[Path]:
    """The files of this machine that `identity` tells of."""
    found = local(str(config.path))
    return files_of(found, config) if found else set()


def check_files(sources: Iterable[DataSource]) -> None:
    """Say where a file of the sources cannot be read.

    Raises:
        UserError: file and line.
    """
    for source in sources:
        if target := local(str(source.config.path)):
            check(sorted(files_of(target, source.config)))


def base(target: Path) -> Path:
    """The folder that `data_files` are relative to."""
    return target if target.is_dir() else target.parent


def files_of(target: Path, config: DatasetConfig) -> set[Path]:
    """Every file that may decide a row."""
    patterns = [Path(name) for name in flat(absolute(config.data_files, base(target)) or [])]
    if patterns:
        found = (iter([p]) if p.is_file() else target.glob(str(p.relative_to(target))) for p in patterns)
        return {file for files in found for file in files}
    files = target.rglob("*") if target.is_dir() else iter([target])
    return {file for file in files if file.is_file() and not file.name.startswith(".")}


def local(path: str) -> Path | None:
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


def flat(named: Any) -> Iterator[str]:
    """Every file of `data_files`, however they are grouped."""
    if isinstance(named, str):
        yield named
    else:
        for part in named.values() if isinstance(named, dict) else named:
            yield from flat(part)


def absolute(named: Any, root: Path) -> Any:
    """`data_files` relative to the folder of the data set; each must exist."""
    if not named:
        return None
    if isinstance(named, dict):
        return {split: absolute(part, root) for split, part in named.items()}
    if isinstance(named, list):
        return [absolute(part, root) for part in named]
    if not (root / named).is_file() and (Path(named).is_absolute() or not list(root.glob(named))):
        hint = did_you_mean(named, [file.name for file in root.iterdir()])
        hint = hint or "Write dataset.data_files=null to read dataset.path by itself"
        raise UserError(f"dataset.data_files: {named} is not in {root.name}. {hint}")
    return str(root / named)
