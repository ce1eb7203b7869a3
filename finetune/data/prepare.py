"""The prepare stage: config to tokenized, labelled, mixed, packed rows on disk, before any process group exists.

Knows the order: sources, shards, lengths, mixture, packing. A second start reads what the first one wrote, and loads
neither rows nor tokenizer before somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.config.installed import code_of
from finetune.config.schema import Config
from finetune.config.task import Facts
from finetune.data import accounts, index, mixture, rendering, store, streams
from finetune.data.files import file_hash
from finetune.data.rows import Rows
from finetune.data.sources import COMMIT, DataSource, check_files, covered, local, sources_of
from finetune.errors import UserError
from finetune.models import model, tokenizer
from finetune.models.source import Source, resolve

if TYPE_CHECKING:  # seconds of imports, which what is prepared already does without
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from finetune.data.shards import Array
    from finetune.data.splits import Split

# Raised when the code that puts rows together changes what it makes.
VERSION = 3
NOT_OF_ROWS = ("path", "sources", "max_dropped")
"""Keys of a data set that decide no row, or are in the key by what they stand for."""
SMALL = (".json", ".txt", ".model", ".spm", ".codes", ".tokenizer", ".tiktoken", ".jinja", ".py")
"""Endings of the files that make a tokenizer and a config, code of their own among them; weights decide no row."""
TEMPLATES = "additional_chat_templates"
"""The folder beside them where transformers looks for templates with names."""


@dataclass(frozen=True)
class Prepared:
    """What the stage hands on: rows on disk, and everything learned on the way."""

    config: Config
    folder: Path
    source: Source
    facts: Facts
    """Of the first source, which those of the others agree with but for their columns."""
    max_length: int
    report: dict[str, dict[str, Any]]
    """Split to rows read and kept, rows dropped by reason, and notes."""

    def rows(self, split: str) -> Rows:
        """The prepared rows of a split, memory-mapped."""
        return index.load(self.folder, split)

    def kept(self, split: str) -> Iterator[tuple[dict[str, Any], Facts]]:
        """The raw rows of a split that were kept, of several sources in turn, each with the facts of its source."""
        from finetune.data import splits

        loaded = [splits.load(source, self.config.seed) for source in sources_of(self.config.dataset)]
        found = zip(loaded, index.made(self.folder)["facts"], strict=True)
        there = [(source[split], facts) for source, facts in found if split in source]
        parts = [self._kept(*each, self.rows(split).kept(shard)) for shard, each in enumerate(there)]
        return (row for rows in zip_longest(*parts) for row in rows if row)

    def _kept(self, split: Split, facts: Facts, kept: Array) -> Iterator[tuple[dict[str, Any], Facts]]:
        from finetune.data import splits

        rows = splits.with_files(split, self.config.task.files(facts)).rows
        numbers = range(len(rows)) if split.numbers is None else split.numbers
        for at in np.flatnonzero(np.isin(numbers, kept)).tolist():
            yield rows[at], facts

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer the rows were made with."""
        trust, kind = self.config.model.trust_remote_code, self.config.task.processing_class
        return tokenizer.load(self.config.tokenizer, self.source, trust, kind)

    @cached_property
    def model_config(self) -> PretrainedConfig:
        """The architecture, with what the data decides of it."""
        return model.config(self.config.model, self.source, self.config.task, self.facts)

    @property
    def architecture(self) -> list[Any]:
        """What decides `model_config`, known without reading it: JSON-able."""
        stated = _key(self.source.path, self.source.revision) or self.model_config.to_dict()
        return [stated, self.config.model.config, self.facts]

    def longest(self, split: str) -> int:
        """Tokens of the longest row."""
        return int(self.rows(split).lengths.max())


def prepare(config: Config) -> Prepared:
    """Prepare every split.

    Raises:
        UserError: the data or the model is not there, or more rows would be dropped than allowed.
        MachineError: how many rows are streamed follows from accelerators that are not there.
    """
    mixture.check(config.dataset.sources, config.dataset.mixture)
    config = replace(config, dataset=streams.bounded(config))
    source, data = resolve(config.model), [_identified(each, config) for each in sources_of(config.dataset)]
    inputs = _inputs(config, source, data)
    folder = index.find(inputs) or _built(inputs, config, source, data)
    made = index.made(folder)
    for split, account in made["report"].items():
        accounts.check(split, account, config.dataset.max_dropped)
        origins = zip(data, account["from"], strict=True)
        account["from"] = "; ".join(f"{each.config.path} {origin}" for each, origin in origins if origin)
    return Prepared(config, folder, source, made["facts"][0], made["max_length"], made["report"])


def _built(inputs: dict[str, Any], config: Config, source: Source, data: list[DataSource]) -> Path:
    from finetune.data.building import Build

    try:
        return index.build(inputs, Build(config, source, data).into)
    except UnicodeDecodeError as error:  # the reader of JSON looks at no text before it is used
        check_files(data)
        raise UserError(f"a text of the data is not UTF-8: {error}") from None


def _identified(source: DataSource, config: Config) -> DataSource:
    """A source whose commit the Hub does not tell is known by what was read of it; with the files that rows name."""
    is_local = local(str(source.config.path)) is not None
    if source.key is not None and not (is_local and config.task.media):
        return source
    from finetune.data import media, splits

    found = splits.load(source, config.seed)
    key = source.key or [source.config.path, found["train"].rows._fingerprint]
    if not config.task.media:
        return replace(source, key=key)
    facts = config.task.describe(found["train"].rows, source.config.columns)
    columns = config.task.files(facts)
    named = [splits.with_files(split, columns).rows for split in found.values()]
    return replace(source, key=[*key, media.digest(named, columns, covered(source.config))])


def _inputs(config: Config, source: Source, data: list[DataSource]) -> dict[str, Any]:
    """Everything that decides the prepared rows, known without reading one of them; no path of this machine."""
    dataset = {name: value for name, value in asdict(config.dataset).items() if name not in NOT_OF_ROWS}
    chosen = [
        {name: value for name, value in asdict(written).items() if name != "path"}
        for written in config.dataset.sources
    ]
    return {
        "version": VERSION,
        "rows": [[each.name, each.key] for each in data] if chosen else data[0].key,
        "dataset": {**dataset, "sources": chosen},
        "task": asdict(config.task),
        "tokenizer": {**asdict(config.tokenizer), "path": _tokenizer_key(config, source),
                      "chat_template": tokenizer.template(config.tokenizer)},
        "model": [_key(source.path, source.revision), config.model.config],
        "libraries": rendering.versions(),
        "packing": asdict(config.packing),
        "seed": config.seed,
        **code_of(type(config.task)),
    }  # fmt: skip


def _tokenizer_key(config: Config, source: Source) -> Any:
    if not config.tokenizer.path:
        return None
    return _key(config.tokenizer.path, config.tokenizer.revision) or store.processing_hash(
        tokenizer.load(config.tokenizer, source, config.model.trust_remote_code, config.task.processing_class)
    )


def _key(path: str, revision: str | None) -> Any:
    """Hashes of the small files of a folder, or the commit of a repository; None where neither is known."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        files = sorted(file for file in (*folder.iterdir(), *(folder / TEMPLATES).glob("*")) if file.suffix in SMALL)
        return [[str(file.relative_to(folder)), file_hash(file)] for file in files]
    return [path, revision] if revision and COMMIT.fullmatch(revision) else None
