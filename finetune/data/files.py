"""Data files: their hashes, and where in them a fault is. Knows bytes and lines; knows no splits and no rows."""

import csv
import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from finetune.config.cache import cache_folder
from finetune.errors import UserError

# A file that was written within this time may be written again without its time of change showing it.
SETTLED_NS = 2_000_000_000
TEXT = (".csv", ".json", ".jsonl", ".txt")


def file_hash(file: Path) -> str:
    """The hash of a file's bytes, kept by path, size, time of change and inode, so that gigabytes are read once."""
    found = file.stat()
    identity = f"{file.resolve()}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ino}"
    kept = cache_folder() / "files" / hashlib.sha256(identity.encode()).hexdigest()[:24]
    try:
        return kept.read_text(encoding="ascii")
    except (OSError, ValueError):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if time.time_ns() - found.st_mtime_ns > SETTLED_NS:
        _keep(kept, digest)
    return digest


def _keep(file: Path, text: str) -> None:
    """A cache that cannot be written costs time, not the run."""
    staged = file.with_name(f"{file.name}.{time.time_ns()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(text, encoding="ascii")
        staged.replace(file)
    except OSError:
        return


def check(files: Iterable[Path]) -> None:
    """Say where a file cannot be read, which the libraries count within a block of it.

    Raises:
        UserError: file and line, what was found there and what was expected.
    """
    for file in files:
        if not file.stat().st_size or (file.suffix in TEXT and _is_blank(file)):
            raise UserError(f"{file.name} is empty")
        if file.suffix in TEXT:
            _check_encoding(file)
        for line, fault in FAULTS.get(file.suffix, lambda _: ())(file):
            raise UserError(f"{file.name}:{line} {fault}")


def _is_blank(file: Path) -> bool:
    with file.open("rb") as lines:
        return not any(line.strip() for line in lines)


def _check_encoding(file: Path) -> None:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f"{file.name}:{number}, byte {error.start + 1} of the line,"
                raise UserError(f"{where} is not UTF-8: 0x{line[error.start]:02x}. {_encoding(line)}") from None


def _encoding(line: bytes) -> str:
    if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "The file looks like UTF-16; write it as UTF-8: iconv -f UTF-16 -t UTF-8 IN > OUT"
    return "Write the file as UTF-8, for example with iconv -f LATIN1 -t UTF-8 IN > OUT"


Fault = tuple[int, str]


def _json_lines(file: Path) -> Iterator[Fault]:
    kinds: dict[str, str] = {}
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_unique)
            except ValueError as error:
                yield number, f"is not JSON: {error}"
                continue
            if row is not None and not isinstance(row, dict):
                yield number, f'holds {_kind(row)}; each line is one row, as {{"column": value}}'
            elif row:
                yield from ((number, fault) for fault in _changes(row, kinds))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is written twice")
    if any(isinstance(value, str) and _is_broken(value) for value in found.values()):
        raise ValueError("a text holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return found


def _is_broken(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text) if not text.isascii() else False


def _changes(row: dict[str, Any], kinds: dict[str, str]) -> Iterator[str]:
    """Values of another kind than those of the same column before."""
    for name, value in row.items():
        kind = _kind(value)
        if value is not None and kinds.setdefault(name, kind) != kind:
            yield f"has {kind} as {name!r}, where the lines before have {kinds[name]}"


def _kind(value: Any) -> str:
    names = {
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(type(value), "nothing")


def _table(file: Path) -> Iterator[Fault]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            names = next(reader)
            for row in reader:
                if len(row) > len(names):
                    yield reader.line_num, f"has {len(row)} fields; the first line names {len(names)} columns"
            if reader.line_num == 1:
                yield 1, "names columns, and no row comes after it"
        except csv.Error as error:
            yield reader.line_num, f"is not CSV: {error}"


def _whole_json(file: Path) -> Iterator[Fault]:
    text = file.read_text(encoding="utf-8-sig")
    try:
        json.loads(text)
    except ValueError as error:
        yield from (
            _json_lines(file)
            if "Extra data" in str(error)
            else [(getattr(error, "lineno", 1), f"is not JSON: {error}")]
        )


FAULTS = {".jsonl": _json_lines, ".csv": _table, ".json": _whole_json}
