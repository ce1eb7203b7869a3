"""The prepared folder: the index of each split, and beside it what was learned while it was made."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data import store
from finetune.data.rows import Rows
from finetune.data.shards import Array, Shard

MADE, PIECES, STARTS = "made.json", "pieces.npy", "starts.npy"


def find(inputs: dict[str, Any]) -> Path | None:
    """The prepared folder for these inputs, if all its shards are there; they count as used now."""
    folder = store.find(store.PREPARED, inputs)
    if folder is None or not all(shard.is_dir() for shard in _shards(folder)):
        return None
    for shard in _shards(folder):
        store.touch(shard)
    return folder


def build(inputs: dict[str, Any], fill: Callable[[Path], dict[str, Any]]) -> Path:
    """Make it; one that has lost a shard is made again.

    Args:
        fill: writes the splits into a folder and returns what was learned.
    """
    store.remove(store.PREPARED, inputs)
    return store.find_or_build(store.PREPARED, inputs, lambda folder: store.write(folder / MADE, fill(folder)))


def made(folder: Path) -> dict[str, Any]:
    """What was learned: facts of each source, max_length, the report, and the shards of each split."""
    found: dict[str, Any] = store.read(folder / MADE)
    return found


def save(folder: Path, pieces: Array, starts: Array | None) -> None:
    """Write the index of a split."""
    folder.mkdir()
    np.save(folder / PIECES, pieces)
    if starts is not None:
        np.save(folder / STARTS, starts)


def load(folder: Path, split: str) -> Rows:
    """The rows of a split, memory-mapped.

    Raises:
        FileNotFoundError: they are gone.
    """
    shards = [Shard(_shard(folder, name), source) for name, source in made(folder)["shards"][split]]
    starts = folder / split / STARTS
    pieces = np.asarray(np.load(folder / split / PIECES, mmap_mode="r"))
    return Rows(shards, pieces, np.load(starts) if starts.is_file() else None)


def digest(folder: Path, split: str) -> str:
    """What tells the rows of a split from others: their shards, and which of their rows stand where."""
    found = hashlib.sha256(json.dumps(made(folder)["shards"][split]).encode())
    for file in sorted((folder / split).iterdir()):
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def _shards(folder: Path) -> list[Path]:
    return [_shard(folder, name) for shards in made(folder)["shards"].values() for name, _ in shards]


def _shard(folder: Path, name: str) -> Path:
    """Shards lie beside the prepared folders, wherever that is."""
    return folder.parent.parent / store.SHARDS / name
