"""Prepared rows on disk, one folder for each set of inputs: made once, never half-read, never stale.

The name of a folder is a hash of everything that decides its content, and of nothing that belongs to a process or a
machine. The inputs lie beside the rows and are compared when they are loaded.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from finetune.config.cache import cache_folder

INPUTS, REPORT = "inputs.json", "report.json"


def key(inputs: dict[str, Any]) -> str:
    """The name of the folder for these inputs."""
    return hashlib.sha256(_json(inputs).encode()).hexdigest()[:24]


def find_or_build(inputs: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> Path:
    """The folder for these inputs, built in a staging folder and renamed when it is whole.

    Args:
        build: fills an empty folder with one subfolder a split and returns the report to keep beside them.
    """
    target = cache_folder() / "prepared" / key(inputs)
    if _is_for(target, inputs):
        return target
    # A process id would do on one machine; folders are shared between several.
    staging = target.with_name(f".{target.name}-{uuid4().hex[:12]}")
    staging.mkdir(parents=True)
    try:
        (staging / REPORT).write_text(_json(build(staging)), encoding="utf-8")
        (staging / INPUTS).write_text(_json(inputs), encoding="utf-8")
        _publish(staging, target, inputs)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def report(folder: Path) -> dict[str, Any]:
    """What the builder reported."""
    found: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return found


def content_hash(rows: Dataset) -> str:
    """A hash of the rows themselves, wherever they came from."""
    digest = hashlib.blake2b(repr(rows.features).encode(), digest_size=16)
    for table in rows.with_format("arrow").iter(1000):
        for batch in table.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what turns text into ids: vocabulary, rules, special tokens, template, and which side is cut."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # How the last call cut and padded is kept among the rules, and decides nothing.
    rules = json.loads(backend.to_str()) | {"truncation": None, "padding": None} if backend else tokenizer.get_vocab()
    settings = (tokenizer.special_tokens_map, tokenizer.chat_template, tokenizer.truncation_side)
    parts = (type(tokenizer).__name__, _json(rules), *map(str, (*settings, tokenizer.model_input_names)))
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _publish(staging: Path, target: Path, inputs: dict[str, Any]) -> None:
    """Rename into place; where another process was faster, its folder is as good."""
    try:
        staging.rename(target)
    except OSError:
        if not _is_for(target, inputs):
            shutil.rmtree(target, ignore_errors=True)
            staging.rename(target)


def _is_for(folder: Path, inputs: dict[str, Any]) -> bool:
    try:
        return (folder / INPUTS).read_text(encoding="utf-8") == _json(inputs)
    except (OSError, ValueError):
        return False


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1)
