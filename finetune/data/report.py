"""What `finetune data` says of a split: its account and its numbers, as lines for a terminal and cards for a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data import page, preview
from finetune.data.prepare import Prepared
from finetune.data.preview import Choice, Shown
from finetune.errors import UserError


def lines(prepared: Prepared, split: str) -> Iterator[tuple[str, str]]:
    """Name and text of what is worth knowing of a split."""
    numbers, account = prepared.report[split]["audit"], prepared.report[split]
    lengths, repeated = numbers["lengths"], numbers["duplicates"]
    unit = prepared.config.task.unit
    yield "lengths", f"{lengths['shortest']} to {lengths['longest']} {unit}, median {lengths['median']}"
    if targets := numbers.get("targets"):
        yield "targets", f"{targets['shortest']} to {targets['longest']} tokens, median {targets['median']}"
    yield from ((name, _spread(found)) for name, found in numbers.get("numbers", {}).items())
    for role, (every, said) in preview.by_role(prepared, split).items():
        yield f"trained of {role}", f"{said:,} of {every:,} tokens ({said / every:.0%})"
    if "rows with a trained end" in numbers:
        ended = numbers["rows with a trained end"]
        yield "trained ends", f"{ended:,} of {numbers['rows']:,} rows train a token that ends a turn"
    yield "truncated", f"{account['notes'].get('truncated', 0):,} rows"
    yield "repeated", ", ".join(f"{number:,} {what}" for what, number in _repeated(repeated))
    if "labels" in numbers:
        yield "labels", ", ".join(f"{name} {count:,}" for name, count in numbers["labels"].items())


def write(prepared: Prepared, choice: Choice, rows: list[Shown], file: Path) -> None:
    """The page of a split.

    Raises:
        UserError: it cannot be written.
    """
    account = prepared.report[choice.split]
    title = f"{choice.split}: {account['kept']:,} of {account['read']:,} rows"
    text = page.page(title, f"{account['from']} · {prepared.source.path}", _cards(prepared, choice.split), rows)
    try:
        # Letters that UTF-8 has no bytes for come from broken data, and must not keep anybody from seeing it.
        file.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"--html {file}: {error.strerror}") from None


def _cards(prepared: Prepared, split: str) -> Iterator[str]:
    account, unit = prepared.report[split], prepared.config.task.unit
    numbers, kept = account["audit"], account["kept"]
    dropped = [(reason, entry["rows"]) for reason, entry in account["dropped"].items()]
    yield page.table("rows", [("read", account["read"]), ("kept", kept), *dropped])
    yield page.table("packing", list(_packed(account)))
    yield page.histogram(unit, numbers["lengths"], "document" if "packed" in account else "row")
    if "targets" in numbers:
        yield page.histogram("tokens of a target", numbers["targets"])
    roles = preview.by_role(prepared, split)
    yield page.table(
        "numbers of a row", [(name, _spread(found)) for name, found in numbers.get("numbers", {}).items()]
    )
    heading = "trained tokens by role" if roles.keys() - {preview.OTHER} else "trained tokens"
    yield page.shares(heading, [(role, every, said) for role, (every, said) in roles.items()])
    yield page.shares("ends of turns", list(_ends(numbers)))
    yield page.shares("labels", list(_labels(numbers, kept)))
    yield page.table("repeated rows", list(_repeated(numbers["duplicates"])))
    yield page.table(
        "notes", [(unit if what == "tokens" else what, count) for what, count in account["notes"].items()]
    )


def _packed(account: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if "packed" in account:
        yield "documents", account["packed"]["documents"]
        yield "packed rows", account["rows"]
        yield "full", f"{account['packed']['fill']:.2%}"


def _spread(found: dict[str, float]) -> str:
    return f"{found['least']:g} to {found['most']:g}, median {found['median']:g}"


def _ends(numbers: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    if "rows with a trained end" in numbers:
        yield "rows that train a token that ends a turn", numbers["rows"], numbers["rows with a trained end"]


def _labels(numbers: dict[str, Any], kept: int) -> Iterator[tuple[str, int, int]]:
    kept = numbers.get("trained tokens", kept)  # labels are of rows, or of tokens
    for name, count in numbers.get("labels", {}).items():
        if isinstance(count, int):
            yield name, kept, count


def _repeated(found: dict[str, int]) -> Iterator[tuple[str, int]]:
    yield "copies of an earlier row", found["exact"]
    if found["near"] is not None:
        yield "near copies of an earlier row", found["near"]
    yield "evaluated on as well", found["evaluated"]
