"""The prepare stage: config to tokenized, labelled, accounted-for rows on disk, before any process group exists."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, load_from_disk
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from finetune.config.schema import Config, DatasetConfig
from finetune.config.task import Account, Facts
from finetune.data import sources, store
from finetune.errors import UserError
from finetune.models import model, tokenizer
from finetune.models.source import Source, resolve

# Raised when the code that makes rows changes what it makes.
VERSION = 2
SHOWN_ROWS = 3


@dataclass(frozen=True)
class Prepared:
    """What the stage hands on: rows on disk, and everything learned on the way."""

    folder: Path
    source: Source
    facts: Facts
    max_length: int
    report: dict[str, dict[str, Any]]
    """Split to rows read and kept, rows dropped by reason, and notes."""
    raw: dict[str, Dataset]
    tokenizer: PreTrainedTokenizerBase
    model_config: PretrainedConfig

    def rows(self, split: str) -> Dataset:
        """The prepared rows of a split, memory-mapped."""
        return load_from_disk(str(self.folder / split))

    @property
    def longest(self) -> int:
        """Tokens of the longest training row."""
        return int(pc.max(pc.list_value_length(self.rows("train").data.column("input_ids"))).as_py())


def prepare(config: Config) -> Prepared:
    """Prepare every split.

    Raises:
        UserError: the data or the model is not there, or more rows would be dropped than allowed.
    """
    source = resolve(config.model)
    raw = sources.load(config.dataset, config.seed)
    facts = config.task.describe(raw.rows["train"], config.dataset.columns)
    model_config = model.config(config.model, source, config.task, facts)
    words = tokenizer.load(config.tokenizer, source, config.model.trust_remote_code)
    max_length = tokenizer.max_length(config.tokenizer, words, model_config)

    inputs = _inputs(config, raw.rows, facts, words, max_length)
    folder = store.find_or_build(inputs, lambda target: _build(target, config, raw.rows, facts, words, max_length))
    report = store.report(folder)
    for split, account in report.items():
        _check_budget(split, account, config.dataset)
        account["from"] = raw.notes[split]
    return Prepared(folder, source, facts, max_length, report, raw.rows, words, model_config)


def _inputs(
    config: Config, raw: dict[str, Dataset], facts: Facts, words: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Any]:
    """Everything that decides the prepared rows, and nothing else."""
    return {
        "version": VERSION,
        "rows": {split: store.content_hash(rows) for split, rows in raw.items()},
        "task": asdict(config.task),
        "facts": facts,
        "tokenizer": store.tokenizer_hash(words),
        "max_length": max_length,
    }


def _build(
    target: Path,
    config: Config,
    raw: dict[str, Dataset],
    facts: Facts,
    words: PreTrainedTokenizerBase,
    max_length: int,
) -> dict[str, Any]:
    report = {}
    for split, rows in raw.items():
        try:
            encoded = config.task.encode(rows, words, facts, max_length)
        except UserError as error:
            raise UserError(f"{split}: {error}") from None
        report[split] = reported(encoded.account, kept=len(encoded.rows))
        encoded.rows.save_to_disk(str(target / split))
    return report


def reported(account: Account, kept: int) -> dict[str, Any]:
    """Read = kept + dropped, with the first rows of each reason."""
    dropped = {reason: {"rows": len(at), "first": at[:SHOWN_ROWS]} for reason, at in account.dropped.items()}
    return {"read": account.read, "kept": kept, "dropped": dropped, "notes": account.notes}


def _check_budget(split: str, found: dict[str, Any], config: DatasetConfig) -> None:
    reasons = [
        f"{entry['rows']} × {reason} (first: rows {entry['first']})" for reason, entry in found["dropped"].items()
    ]
    dropped = found["read"] - found["kept"]
    if not found["kept"]:
        raise UserError(f"{split}: no row of {found['read']} is left: {'; '.join(reasons)}")
    if dropped > config.max_dropped * found["read"]:
        raise UserError(
            f"{split}: {dropped} of {found['read']} rows would be dropped, more than dataset.max_dropped="
            f"{config.max_dropped:g} allows: {'; '.join(reasons)}. Mend the rows, or write dataset.max_dropped=…"
        )
