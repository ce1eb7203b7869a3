"""From sources to the index of every split, where it is not in the store yet."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from finetune.config.installed import code_of
from finetune.config.schema import Config
from finetune.config.task import Account, Encoder, Facts
from finetune.data import (
    accounts,
    audit,
    duplicates,
    encoding,
    index,
    lengths,
    mixture,
    packing,
    rendering,
    splits,
    store,
)
from finetune.data.accounts import Report
from finetune.data.lengths import UNLIMITED, Limit
from finetune.data.rows import Rows
from finetune.data.shards import Array, Shard
from finetune.data.sources import DataSource
from finetune.data.splits import Split
from finetune.errors import UserError
from finetune.models import model, tokenizer
from finetune.models.source import Source

# Raised when the code that makes tokens and labels changes what it makes.
VERSION = 2
ACCOUNT = "account.json"


@dataclass(frozen=True)
class Tokenized:
    """The shard of one split of one source, and what became of its rows so far."""

    shard: Shard
    account: Account
    encoder: Encoder


@dataclass(frozen=True)
class Build:
    """One preparation."""

    config: Config
    source: Source
    data: list[DataSource]

    def into(self, folder: Path) -> dict[str, Any]:
        """Fill a folder with the index of each split; what was learned on the way.

        Raises:
            UserError: the data cannot be read, encoded or packed.
        """
        splits = dict.fromkeys(name for found in self.raw for name in found)
        parts = {split: list(self._tokenized(split)) for split in splits}
        pieces = {split: [self._fitted(*part, split) for part in enumerate(parts[split])] for split in splits}
        pieces["train"] = self._wanted(pieces, parts)
        numbers = audit.audit_all({split: _rows(parts[split], pieces[split]) for split in splits}, self.facts[0])
        report = {}
        for split in splits:
            made = self._arranged(pieces[split], parts[split], split)
            index.save(folder / split, *made)
            report[split] = self._report(split, parts[split], pieces[split], made) | {"audit": numbers[split]}
        shards = {split: [[part.shard.folder.name, part.shard.source] for part in parts[split]] for split in splits}
        return {"facts": self.facts, "max_length": self.max_length, "report": report, "shards": shards}

    @cached_property
    def raw(self) -> list[dict[str, Split]]:
        """The raw splits of each source."""
        return [splits.load(source, self.config.seed) for source in self.data]

    @cached_property
    def facts(self) -> list[Facts]:
        """What the task learned from each source."""
        task, brought = self.config.task, model.brought(self.config.model, self.source)
        described = [
            task.describe(found["train"].rows, source.config.columns)
            for found, source in zip(self.raw, self.data, strict=True)
        ]
        return [task.settle(facts, self.words, brought) for facts in task.join(described)]

    @cached_property
    def words(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        trust, kind = self.config.model.trust_remote_code, self.config.task.processing_class
        return tokenizer.load(self.config.tokenizer, self.source, trust, kind)

    @cached_property
    def max_length(self) -> int:
        """How long a row may be, in tokens or what else its length counts."""
        if limit := self.config.task.limit(self.words):
            return limit
        architecture = model.config(self.config.model, self.source, self.config.task, self.facts[0])
        return tokenizer.max_length(self.config.tokenizer, self.words, architecture)

    def _tokenized(self, split: str) -> Iterator[Tokenized]:
        for source, found, facts in zip(self.data, self.raw, self.facts, strict=True):
            if split in found:
                try:
                    yield self._shard(source, split, found[split], facts)
                except UserError as error:
                    raise UserError(f"{self._called(split, source.name)}: {error}") from None

    def _shard(self, source: DataSource, split: str, raw: Split, facts: Facts) -> Tokenized:
        """The rows of a split, tokenized whole: length, mixture and packing decide nothing here."""
        raw = splits.with_files(raw, self.config.task.files(facts))
        encoder = self.config.task.encoder(raw.rows, self.words, facts, self.max_length)
        inputs = {
            "version": VERSION,
            "rows": splits.key_of(source, split, raw, self.config.seed),
            "task": {name: value for name, value in asdict(self.config.task).items() if name != "overlong"},
            "facts": facts,
            "tokenizer": store.processing_hash(self.words),
            "libraries": rendering.versions(),
            # What the encoder has cut itself is cut at the length.
            "cut": self.max_length if encoder.overlong == "whole" else encoder.cut,
            **code_of(type(self.config.task)),
        }

        def encode(folder: Path) -> None:
            account = encoding.encode(raw.rows, encoder, folder, numbers=raw.numbers)
            # Rows are made once: a run that goes on another day finds those that it began with.
            if rendering.renders(self.config.task) and (day := rendering.day(self.words)):
                account.note(f"rows with the date that the chat template writes, {day}", account.kept)
            store.write(folder / ACCOUNT, asdict(account))

        folder = store.find_or_build(store.SHARDS, inputs, encode)
        return Tokenized(Shard(folder, source.name), Account(**store.read(folder / ACCOUNT)), encoder)

    def _wanted(self, pieces: dict[str, list[Array]], parts: dict[str, list[Tokenized]]) -> list[Array]:
        """The pieces of train without the rows that the recipe wants out, which are accounted for."""
        rows = {split: _rows(parts[split], found) for split, found in pieces.items()}
        others = [part for split, part in rows.items() if split != "train"]
        gone = duplicates.unwanted(rows["train"], others, self.config.dataset)
        kept = np.delete(rows["train"].pieces, list(gone))
        removed = [(rows["train"].pieces[at], reason) for at, reason in gone.items()]
        found = [kept[kept["shard"] == at] for at in range(len(parts["train"]))]
        for at, part in enumerate(parts["train"]):
            gone_here = [(piece["row"], reason) for piece, reason in removed if piece["shard"] == at]
            _remove(part, found[at]["row"], gone_here)
        return found

    def _fitted(self, at: int, part: Tokenized, split: str) -> Array:
        wrapped = split == "train" and self.config.packing.strategy == "wrapped"
        limit = Limit(UNLIMITED if wrapped else self.max_length, part.encoder.overlong, self.config.task.unit)
        try:
            pieces = lengths.fit(part.shard, limit, part.account)
        except UserError as error:
            raise UserError(f"{self._called(split, part.shard.source)}: {error}") from None
        pieces["shard"] = at
        return pieces

    def _arranged(self, pieces: list[Array], parts: list[Tokenized], split: str) -> tuple[Array, Array | None]:
        """The rows of a split: train as mixed and packed, the others as they come."""
        if split != "train" or not sum(map(len, pieces)):
            return mixture.mix(pieces, [], self.config.dataset.mixture, 0), None
        for part, found in zip(parts, pieces, strict=True):
            if not len(found):
                raise UserError(f"train of {part.shard.source}: no row of {part.account.read} is left")
        mixed = mixture.mix(pieces, self.config.dataset.sources, self.config.dataset.mixture, self.config.seed)
        strategy = self.config.packing.strategy
        if strategy == "none":
            return mixed, None
        for part in parts:
            packing.check(part.shard, part.encoder, strategy)
        return packing.pack(mixed, strategy, self.max_length, self.config.seed)

    def _report(
        self, split: str, parts: list[Tokenized], pieces: list[Array], made: tuple[Array, Array | None]
    ) -> Report:
        origins = [found[split].origin if split in found else None for found in self.raw]
        counted = [
            accounts.reported(part.account, part.shard.numbers[found["row"]])
            for part, found in zip(parts, pieces, strict=True)
        ]
        names = [part.shard.source for part in parts]
        return accounts.joined(dict(zip(names, counted, strict=True)), made, self.max_length) | {"from": origins}

    def _called(self, split: str, source: str) -> str:
        return f"{split} of {source}" if len(self.data) > 1 else split


def _remove(part: Tokenized, kept: Array, gone: Sequence[tuple[int, str]]) -> None:
    """Account for pieces that are removed: a row is dropped when no piece of it is kept.

    Args:
        kept: the rows of the shard that the kept pieces are of.
        gone: the row of each removed piece, and the reason.
    """
    left, numbers = set(part.shard.numbers[kept].tolist()) if gone else set(), part.shard.numbers
    for number, reason in {int(numbers[row]): reason for row, reason in gone}.items():
        if number in left:
            part.account.note("rows with parts removed")
        else:
            part.account.drop(reason, number)


def _rows(parts: list[Tokenized], pieces: list[Array]) -> Rows:
    """Rows as they are kept, before they are mixed and packed."""
    return Rows([part.shard for part in parts], np.concatenate(pieces))
