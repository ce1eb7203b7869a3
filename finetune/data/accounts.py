"""What became of every row, as reported: read = kept + dropped, by reason, by source; and what an epoch takes."""

from typing import Any

import numpy as np

from finetune.config.task import Account
from finetune.data.duplicates import ASKED
from finetune.data.shards import Array
from finetune.errors import UserError

SHOWN_ROWS = 3
Report = dict[str, Any]


def reported(account: Account, numbers: Array) -> Report:
    """Read = kept + dropped, with the first rows of each reason.

    Args:
        numbers: of the kept rows in their source, as often as something is left of each.
    Raises:
        RuntimeError: rows are neither kept nor dropped, which is a fault of ours.
    """
    kept = len(np.unique(numbers))
    if lost := account.kept - kept:
        raise RuntimeError(f"of {account.read} rows, {lost} are neither kept nor dropped")
    dropped = {reason: _first(account, sorted(at)) for reason, at in account.dropped.items()}
    return {"read": account.read, "kept": kept, "dropped": dropped, "notes": account.notes}


def _first(account: Account, at: list[int]) -> Report:
    """How many rows a reason dropped, the first ones, and their files where those are at fault."""
    files = [account.files[str(row)] for row in at[:SHOWN_ROWS] if str(row) in account.files]
    return {"rows": len(at), "first": at[:SHOWN_ROWS], **({"files": files} if files else {})}


def joined(sources: dict[str, Report], made: tuple[Array, Array | None], max_length: int) -> Report:
    """The account of a split: of all its sources together, of each where there are several, and of its rows.

    What was read is counted once, in `notes`; `rows` and `tokens` are what an epoch takes of it, mixed and packed.

    Args:
        made: the pieces of an epoch, and where each packed row begins among them.
    """
    pieces, starts = made
    whole: Report = {"read": 0, "kept": 0, "dropped": {}, "notes": {}}
    for name, found in sources.items():
        _add(whole, found, name if len(sources) > 1 else "")
    whole["rows"] = len(pieces) if starts is None else len(starts) - 1
    whole["tokens"] = int(pieces["length"].sum(dtype=np.int64))
    if starts is not None:
        whole["packed"] = {"documents": len(pieces), "fill": _fill(pieces, whole["rows"], max_length)}
    if len(sources) > 1:
        whole["sources"] = {name: found | _taken(pieces, at) for at, (name, found) in enumerate(sources.items())}
    return whole


def _add(whole: Report, found: Report, name: str) -> None:
    whole["read"], whole["kept"] = whole["read"] + found["read"], whole["kept"] + found["kept"]
    for what, count in found["notes"].items():
        whole["notes"][what] = whole["notes"].get(what, 0) + count
    for reason, entry in found["dropped"].items():
        whole["dropped"][f"{name}: {reason}" if name else reason] = entry


def _fill(pieces: Array, rows: int, max_length: int) -> float:
    return round(float(pieces["length"].sum(dtype=np.int64)) / max(rows * max_length, 1), 6)


def _taken(pieces: Array, at: int) -> Report:
    """What an epoch takes of a source, in rows, in tokens and as a share of all tokens."""
    own, total = pieces[pieces["shard"] == at], int(pieces["length"].sum(dtype=np.int64))
    tokens = int(own["length"].sum(dtype=np.int64))
    rows = len(own)
    return {"taken": {"rows": rows, "tokens": tokens, "share": round(tokens / max(total, 1), 6)}}


def check(split: str, found: Report, max_dropped: float) -> None:
    """Refuse a split, or a source of it, of which too many rows were dropped.

    Raises:
        UserError: more than the share `max_dropped`, or all of them.
    """
    for name, part in found.get("sources", {"": found}).items():
        _check(f"{split} of {name}" if name else split, part, max_dropped)


def _check(called: str, found: Report, max_dropped: float) -> None:
    reasons = "; ".join(_reason(reason, entry) for reason, entry in found["dropped"].items())
    asked = sum(entry["rows"] for reason, entry in found["dropped"].items() if reason in ASKED)
    dropped = found["read"] - found["kept"] - asked
    if not found["kept"]:
        raise UserError(f"{called}: no row of {found['read']} is left: {reasons}")
    if dropped > max_dropped * found["read"]:
        raise UserError(
            f"{called}: {dropped} of {found['read']} rows would be dropped, more than dataset.max_dropped="
            f"{max_dropped:g} allows: {reasons}. Mend the rows, or write dataset.max_dropped=…"
        )


def _reason(reason: str, entry: Report) -> str:
    files = f", {', '.join(entry['files'])}" if "files" in entry else ""
    return f"{entry['rows']} × {reason} (first: rows {entry['first']}{files})"
