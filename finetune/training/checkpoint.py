"""A checkpoint on disk: written beside its place, sealed with a manifest, moved there by one rename, proved when read.

    checkpoints/
      checkpoint-8/            whole, or not there
        manifest.json          run, step, parent, ranks, identity, and size and checksum of every file
        rank-0/ …              what each rank keeps for itself
      .staging-…               being written; swept away by the next start
      damaged/                 set aside: a file of it is not what the manifest says
      abandoned/               set aside: the run went back to an earlier step

Knows files and folders. Knows nothing of models, trainers or ranks.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import xxhash

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "manifest.json"
STAGING, TRASH = ".staging-", ".trash-"
BLOCK = 1 << 22

Files = dict[str, list[Any]]
"""Path below the checkpoint to size in bytes and xxh3-128 checksum."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself."""

    run: str
    step: int
    parent: str | None
    """The checkpoint this process went on from."""
    ranks: int
    identity: dict[str, Any]
    """What a run must agree with to go on from here."""
    files: Files
    format: int = FORMAT


def stage(folder: Path, step: int) -> Path:
    """A new folder to write checkpoint `step` into, on the filesystem it will stay on."""
    staging = folder / f"{STAGING}{step}-{uuid4().hex[:12]}"
    staging.mkdir(parents=True)
    return staging


def flushed(files: Iterable[Path], below: Path) -> Files:
    """Size and checksum of files, once they are on the disk itself and not only in its cache.

    One after the other: this goes on beside steps, which need the processor more.
    """
    return {str(file.relative_to(below)): _flushed(file) for file in sorted(files)}


def publish(staging: Path, target: Path, manifest: Manifest) -> None:
    """Seal what was staged and move it into its place, where it is whole from the first moment."""
    values = asdict(manifest)
    (staging / MANIFEST).write_text(json.dumps({"seal": _seal(values), **values}, indent=1), encoding="utf-8")
    _flush(staging / MANIFEST)
    for folder in [*(path for path in staging.rglob("*") if path.is_dir()), staging]:
        _flush(folder)
    if target.exists() and fault(target):
        set_aside(target, "damaged")
    if target.exists():
        discard(staging)  # the same step of the same run is the same checkpoint
    else:
        staging.rename(target)
    _flush(target.parent)


def read(checkpoint: Path) -> Manifest:
    """What a checkpoint says of itself.

    Raises:
        ValueError: there is no manifest, or it was changed.
    """
    try:
        values = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        seal = values.pop("seal")
    except (OSError, ValueError, AttributeError, KeyError):
        raise ValueError(f"{MANIFEST} is missing or cannot be read") from None
    if seal != _seal(values):
        raise ValueError(f"{MANIFEST} was changed")
    if values["format"] != FORMAT:
        raise ValueError(f"{MANIFEST} has format {values['format']}, this version reads {FORMAT}")
    return Manifest(**values)


def fault(checkpoint: Path) -> str | None:
    """The first thing wrong with a checkpoint, or None: every file is read and compared with the manifest."""
    try:
        manifest = read(checkpoint)
    except ValueError as error:
        return str(error)
    if checkpoint.name != name(manifest.step):
        return f"{MANIFEST} is of {name(manifest.step)}"
    for file, (size, checksum) in manifest.files.items():
        path = checkpoint / file
        if not path.is_file():
            return f"{file} is missing"
        if path.stat().st_size != size:
            return f"{file} has {path.stat().st_size} bytes, not {size}"
        if _checksum(path) != checksum:
            return f"{file} is not what was written"
    return None


def name(step: int) -> str:
    """The folder's name."""
    return f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """The step a folder is named after."""
    return int(checkpoint.name.rpartition("-")[2])


def found(folder: Path) -> list[Path]:
    """Every checkpoint, the newest first, whether or not it is whole."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(named, key=step_of, reverse=True)


def newest(folder: Path, run: str) -> Path | None:
    """The newest checkpoint of this run that is whole; those before it that are not are set aside, and said."""
    for checkpoint in found(folder):
        wrong = fault(checkpoint)
        if wrong is None and read(checkpoint).run != run:
            wrong = f"it is of another run, {read(checkpoint).run}"
        if wrong is None:
            return checkpoint
        moved = set_aside(checkpoint, "damaged")
        log.warning("%s cannot be used: %s. Moved to %s", checkpoint.name, wrong, moved)
    return None


def go_back(folder: Path, step: int) -> None:
    """Set aside every checkpoint after `step`, the newest first, so that no later start takes the abandoned way."""
    for checkpoint in found(folder):
        if step_of(checkpoint) > step:
            set_aside(checkpoint, "abandoned")


def set_aside(checkpoint: Path, why: str) -> Path:
    """Move a checkpoint out of the way, keeping it."""
    target = checkpoint.parent / why / f"{checkpoint.name}-{uuid4().hex[:6]}"
    target.parent.mkdir(exist_ok=True)
    return checkpoint.rename(target)


def retain(folder: Path, limit: int | None, keep: Iterable[str] = ()) -> None:
    """Delete the oldest checkpoints beyond `limit`. Only whole ones count, and the newest whole one always stays.

    Args:
        keep: names that stay and count, such as that of the best checkpoint.
    """
    if not limit:
        return
    whole = [checkpoint for checkpoint in found(folder) if _looks_whole(checkpoint)]
    kept = [checkpoint for checkpoint in whole if checkpoint.name in keep]
    others = [checkpoint for checkpoint in whole if checkpoint.name not in keep]
    if kept and whole[0] not in kept:
        limit = max(limit, len(kept) + 1)
    for checkpoint in others[max(limit - len(kept), 0 if kept else 1) :]:
        discard(checkpoint)


def sweep(folder: Path) -> None:
    """Delete what an interrupted process left half-written or half-deleted."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith((STAGING, TRASH)):
            shutil.rmtree(path, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete a folder in a way that leaves no half of it under its name."""
    trash = folder.with_name(f"{TRASH}{uuid4().hex[:12]}")
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash, ignore_errors=True)


def _looks_whole(checkpoint: Path) -> bool:
    """Whether every file is there in its size; the checksums are left to the reader."""
    try:
        files = read(checkpoint).files
        return all((checkpoint / file).stat().st_size == size for file, (size, _) in files.items())
    except (ValueError, OSError):
        return False


def _seal(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _flushed(file: Path) -> list[Any]:
    """Flushing waits for the disk and hashing for the processor, so they go side by side."""
    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(_flush, file)
        checksum = _checksum(file)
        flushing.result()
    return [file.stat().st_size, checksum]


def _checksum(file: Path) -> str:
    """xxh3-128: it must find damage, not malice, at the speed of memory."""
    digest = xxhash.xxh3_128()
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """fsync of a file or a folder."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
