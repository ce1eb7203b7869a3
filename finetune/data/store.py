"""Folders on disk, one for each set of inputs: made once, never half-read, never stale.

The name of a folder is a hash of everything that decides its content, and of nothing that belongs to a process or a
machine. The inputs lie beside what was made of them and are compared when it is loaded.

    shards/KEY      the tokenized rows of one split of one source, whole
    prepared/KEY    which of them make the splits of a run, in which order, how packed
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from finetune.config.cache import cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INPUTS = "inputs.json"
PREPARED, SHARDS = "prepared", "shards"


def key(inputs: dict[str, Any]) -> str:
    """The name of the folder for these inputs."""
    return hashlib.sha256(_json(inputs).encode()).hexdigest()[:24]


def find_or_build(kind: str, inputs: dict[str, Any], build: Callable[[Path], Any]) -> Path:
    """The folder for these inputs, built in a staging folder and renamed when it is whole.

    Args:
        kind: `shards` or `prepared`.
        build: fills an empty folder.
    """
    target = place(kind, key(inputs))
    if found := find(kind, inputs):
        return found
    # A process id would do on one machine; folders are shared between several.
    staging = target.with_name(f".{target.name}-{uuid4().hex[:12]}")
    staging.mkdir(parents=True)
    try:
        build(staging)
        (staging / INPUTS).write_text(_json(inputs), encoding="utf-8")
        _publish(staging, target, inputs)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def find(kind: str, inputs: dict[str, Any]) -> Path | None:
    """The folder for these inputs, where it is whole; it counts as used now."""
    target = place(kind, key(inputs))
    if not _is_for(target, inputs):
        return None
    touch(target)
    return target


def remove(kind: str, inputs: dict[str, Any]) -> None:
    """Remove the folder for these inputs, if there is one."""
    discard(place(kind, key(inputs)))


def place(kind: str, name: str) -> Path:
    """Where the folder of a key lies."""
    return cache_folder() / kind / name


def touch(folder: Path) -> None:
    """Remember that a folder was used; one that others own stays as it is."""
    try:
        os.utime(folder)
    except OSError:
        return


def read(file: Path) -> Any:
    """A JSON file of a folder."""
    return json.loads(file.read_text(encoding="utf-8"))


def write(file: Path, value: Any) -> None:
    """Write a JSON file of a folder that is being filled."""
    file.write_text(_json(value), encoding="utf-8")


def discard(folder: Path) -> None:
    """Remove a folder, renamed first: a reader finds a whole one or none."""
    try:
        gone = folder.rename(folder.with_name(f".{folder.name}-{uuid4().hex[:12]}"))
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def processing_hash(processor: Any) -> str:
    """A hash of what turns raw inputs into the model's: a tokenizer, a processor's own settings, or both."""
    words = processor if hasattr(processor, "get_vocab") else getattr(processor, "tokenizer", None)
    settings = "" if words is processor else _json([type(processor).__name__, json.loads(processor.to_json_string())])
    of_words = tokenizer_hash(words) if words is not None else ""
    return hashlib.blake2b(f"{settings}{of_words}".encode(), digest_size=16).hexdigest() if settings else of_words


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
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
