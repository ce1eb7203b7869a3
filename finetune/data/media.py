"""Columns that hold files: as the libraries store them, undecoded; the bytes of one; what identifies those on disk.

Knows names and bytes. Knows no formats of images or sounds, and no task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

from datasets import Audio, Dataset, Image, IterableDataset, Value
from datasets import config as library

from finetune.config.cache import cache_folder
from finetune.config.task import RowError
from finetune.data.files import file_hash
from finetune.errors import UserError

STORED = {"bytes": Value("binary"), "path": Value("string")}
TEXTS = ("string", "large_string")


@dataclass(frozen=True)
class File:
    """One image or sound, as it was written."""

    content: bytes
    name: str
    """How the row calls it; empty where the row holds nothing but bytes."""


@contextmanager
def undecoded() -> Iterator[None]:
    """Let `datasets` take sounds as they are: it asks for torchcodec before it looks at a name, which needs none."""
    if library.TORCHCODEC_AVAILABLE:
        yield
        return
    original = Audio.encode_example
    Audio.encode_example = _encoded  # type: ignore[method-assign]
    try:
        yield
    finally:
        Audio.encode_example = original  # type: ignore[method-assign]


def _encoded(_: Audio, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {name: value.get(name) for name in STORED}
    return {"bytes": None, "path": value} if isinstance(value, str) else {"bytes": value, "path": None}


def as_stored(rows: Any) -> Any:
    """Rows whose images and sounds are not decoded: their names and bytes.

    Args:
        rows: a data set, or one that is streamed.
    """
    for name, feature in (rows.features or {}).items():
        if isinstance(feature, Image | Audio):
            kind = type(feature)(decode=False) if isinstance(rows, IterableDataset) else STORED
            rows = rows.cast_column(name, kind)
    return rows


def located(rows: Dataset, columns: Iterable[str], folders: Sequence[Path]) -> Dataset:
    """Rows whose columns name files by whole paths.

    Args:
        folders: where the data lies, which names are relative to.
    """
    for column in columns:
        if getattr(rows.features[column], "dtype", None) in TEXTS:
            paths = [name and str(_found(name, folders)) for name in rows[column]]
            rows = rows.remove_columns(column).add_column(column, paths)
    return rows


def _found(name: str, folders: Sequence[Path]) -> Path:
    """The file of that name in the first folder that has it."""
    places = [folder / name for folder in folders] or [Path(name)]
    return next((place for place in places if place.is_file()), places[0])


def digest(rows: Iterable[Dataset], columns: Sequence[str], known: set[Path]) -> str:
    """What tells the files that rows name from others; those that are known by other means are left out."""
    found = hashlib.sha256()
    for cell in chain.from_iterable(part[column] for part in rows for column in columns):
        path = cell.get("path") if isinstance(cell, dict) and not cell.get("bytes") else cell
        if isinstance(path, str) and (file := Path(path)) not in known:
            found.update(f"{file.name} {file_hash(file) if file.is_file() else None}\n".encode())
    return found.hexdigest()[:24]


def read(cell: Any, what: str) -> File:
    """The file that a cell of a row holds or names.

    Args:
        what: what it holds, for messages: `image`, `sound`.
    Raises:
        RowError: there is none.
        UserError: the cell is of another kind.
    """
    content, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(content, str):
        content, name = None, content
    if isinstance(content, bytes):
        if not content:
            raise RowError(f"the {what} is empty", name or "")
        return File(content, name or "")
    if content is not None or (cell is not None and not isinstance(cell, dict | str)):
        raise UserError(f"holds {type(cell).__name__}, where the name of a file or its bytes are expected as {what}")
    return _opened(name, what)


def named(cell: Any, what: str) -> str:
    """The name of the file that a cell holds or names; bytes alone are kept in the cache, by what they are.

    Raises:
        RowError: there is none.
        UserError: the cell is of another kind.
    """
    file = read(cell, what)
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        return file.name
    place = cache_folder() / "files" / hashlib.sha256(file.content).hexdigest()[:24]
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = place.with_name(f".{place.name}-{uuid4().hex[:12]}")
        staging.write_bytes(file.content)
        staging.rename(place)
    return str(place)


def _opened(name: str | None, what: str) -> File:
    if not name:
        raise RowError(f"no {what}")
    try:
        content = Path(name).expanduser().read_bytes()
    except FileNotFoundError:
        raise RowError("there is no such file", name) from None
    except OSError as error:
        raise RowError(f"the file cannot be read ({error.strerror})", name) from None
    if not content:
        raise RowError(f"the {what} is empty", name)
    return File(content, name)
