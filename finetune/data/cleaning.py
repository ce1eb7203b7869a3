"""What the store holds, and what is removed from it. Knows sizes and times; knows no content."""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from finetune.data.store import PREPARED, SHARDS, discard, place
from finetune.errors import UserError

# A folder that is still being filled after a day belongs to a process that was killed.
ABANDONED = 24 * 3600


@dataclass(frozen=True)
class Entry:
    """One folder of the store."""

    folder: Path
    size: int
    used: float
    """Seconds since the epoch."""

    @property
    def kind(self) -> str:
        """`shards` or `prepared`."""
        return self.folder.parent.name


def entries() -> list[Entry]:
    """What the store holds, the longest unused first."""
    found = [Entry(folder, _size(folder), folder.stat().st_mtime) for folder in _folders() if folder.name[0] != "."]
    return sorted(found, key=lambda entry: entry.used)


def clean(limit: int) -> list[Entry]:
    """Remove what was left by killed processes, then the longest unused folders until `limit` bytes are left."""
    for folder in _folders():
        if folder.name.startswith(".") and time.time() - folder.stat().st_mtime > ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)
    kept = entries()
    total, removed = sum(entry.size for entry in kept), []
    for entry in kept:
        if total > limit:
            discard(entry.folder)
            total -= entry.size
            removed.append(entry)
    return removed


def size(text: str) -> int:
    """Bytes of 500MB, 20GB or a plain number.

    Raises:
        UserError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", text.strip().upper())
    if not found:
        raise UserError(f"{text} is not a size; write 500MB or 20GB")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2] or " "))


def lines(listed: list[Entry], what: str) -> Iterator[str]:
    """A line a folder and one for all of them together, as they are printed."""
    for entry in listed:
        used = datetime.fromtimestamp(entry.used)
        yield f"{entry.size:>16,}  {used:%Y-%m-%d %H:%M}  {entry.kind}/{entry.folder.name}"
    yield f"{sum(entry.size for entry in listed):>16,}  bytes in {len(listed)} folders {what}"


def _folders() -> Iterator[Path]:
    for kind in (PREPARED, SHARDS):
        if place(kind, "").is_dir():
            yield from place(kind, "").iterdir()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
