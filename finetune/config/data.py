"""The keys of data: sources, splits, mixtures, packing. Imports no torch and no Hugging Face library."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetune.config.types import Closed, Number, Positive, Share, Switch, Text


@dataclass(kw_only=True)
class SourceConfig:
    """One of several sources of a data set; keys that are left out are those of the data set."""

    __pydantic_config__: ClassVar[Any] = Closed

    path: Text
    """Hub id, file, folder, or `recipes://…`."""
    label: Text | None = None
    """What the source is called in reports and metrics; None takes the last part of its path."""
    name: str | None = None
    """The configuration: of a Hub data set, or of a folder whose README.md declares some."""
    revision: str | None = None
    data_files: str | list[str] | dict[str, str | list[str]] | None = None
    format: Literal["auto", "csv", "json", "parquet", "arrow", "text"] | None = None
    train_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    validation_size: Annotated[Number, Field(gt=0, lt=1)] | Positive | None = None
    columns: dict[str, str] = field(default_factory=dict)
    limit: Positive | None = None
    weight: Annotated[Number, Field(gt=0)] | None = None
    """Its share of the mixture, beside the weights of the others; written for every source or for none."""
    samples: Positive | None = None
    """Rows of it that an epoch takes, again from the beginning where it has fewer."""
    tokens: Positive | None = None
    """Tokens of it that an epoch takes."""
    epochs: Annotated[Number, Field(gt=0)] | None = None
    """How often an epoch takes each of its rows."""


@dataclass(kw_only=True)
class MixtureConfig:
    """How weights of sources become rows."""

    __pydantic_config__: ClassVar[Any] = Closed

    weigh: Literal["samples", "tokens"] = "samples"
    """What a weight is a share of."""
    temperature: Annotated[Number, Field(gt=0)] | None = None
    """Shares are weights to the power of 1/temperature; where no weights are written, they are the sizes."""
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """An epoch ends when the first source is used up, or when all are; smaller ones then begin again."""


@dataclass(kw_only=True)
class DatasetConfig:
    """Where rows come from, which splits they make, and which columns matter."""

    __pydantic_config__: ClassVar[Any] = Closed

    path: Text | None = None
    """Hub id, file, folder, or `recipes://…` for data that ships with the recipes."""
    sources: list[SourceConfig] = field(default_factory=list)
    """Several sources instead of one `path`."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    name: str | None = None
    """The configuration: of a Hub data set, or of a folder whose README.md declares some."""
    revision: str | None = None
    data_files: str | list[str] | dict[str, str | list[str]] | None = None
    format: Literal["auto", "csv", "json", "parquet", "arrow", "text"] = "auto"
    train_split: str = "train"
    validation_split: str | None = None
    """None takes `validation`, `valid`, `val` or `dev`, and where there is none cuts `validation_size` from train."""
    test_split: str | None = None
    """Prepared where it is named, for `finetune evaluate RUN --split test`. Many Hub sets hide its labels."""
    validation_size: Annotated[Number, Field(gt=0, lt=1)] | Positive = 0.1
    """A share of train, or a number of rows, for a validation split that is cut."""
    stratify: Switch = False
    """Cut so that every label keeps its share."""
    columns: dict[str, str] = field(default_factory=dict)
    """Role to column name; what is left out is detected and shown."""
    limit: Positive | None = None
    """At most this many rows of each split, the first ones."""
    streaming: Switch = False
    """Read the first rows only, as many as `trainer.max_steps` can use or `limit` says, and fetch no more of it."""
    max_dropped: Share = 0.01
    """The largest share of a split that may be dropped."""
    deduplicate: Literal["none", "exact", "near"] = "none"
    """Remove training rows that repeat an earlier one, or nearly do. Found and reported in any case."""
    decontaminate: Switch = False
    """Remove training rows that are evaluated on as well. Found and reported in any case."""


@dataclass(kw_only=True)
class PackingConfig:
    """How rows of train are put together into rows of `tokenizer.max_length` tokens; none sees another."""

    __pydantic_config__: ClassVar[Any] = Closed

    strategy: Literal["none", "best_fit", "sequential", "wrapped"] = "none"
    """best_fit fills rows best; sequential keeps the order; wrapped cuts plain text where a row is full."""


def is_configured(path: Path, data_files: object) -> bool:
    """Whether what lies there can be of several configurations, one of which `name` chooses."""
    return not data_files and not is_saved(path) and (path / "README.md").is_file()


def is_saved(path: Path) -> bool:
    """Whether it is what `save_to_disk` wrote."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
