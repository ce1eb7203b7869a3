"""Which columns hold the texts of a row, and what is known of them: a positive, a negative, a score, a label.

A layout is a set of roles that a row fills. Knows names of columns and values of rows; knows no loss and no model.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any

from finetune.config.task import RowError
from finetune.data.columns import check
from finetune.errors import UserError

Layouts = Mapping[str, tuple[str, ...]]
"""Layout to its roles, the likeliest first."""


def detect(
    names: Sequence[str], given: dict[str, str], layouts: Layouts, usual: Mapping[str, Sequence[str]]
) -> tuple[str, dict[str, str]]:
    """The layout of rows, and role to column: as given, else the first usual name that is there.

    Args:
        names: the columns there are; `a.b` is the part b of a column that holds mappings.
        given: role to column, as the user named them.
        usual: role to the names that data sets use.
    Raises:
        UserError: a column is not there, or the columns fill no layout.
    """
    check(given, names)
    for layout, roles in sorted(layouts.items(), key=lambda item: set(item[1]) != set(given)):
        found = {role: given.get(role) or _first(role, usual, names) for role in roles}
        if set(given) <= set(roles) and all(found.values()):
            return layout, found
    known = "; ".join(f"{', '.join(roles)} ({layout})" for layout, roles in layouts.items())
    raise UserError(
        f"the columns {', '.join(names)} are none of the layouts that can be learned: {known}. Name them: "
        "dataset.columns.ROLE=COLUMN"
    )


def _first(role: str, usual: Mapping[str, Sequence[str]], names: Sequence[str]) -> str:
    return next((name for name in usual[role] if name in names), "")


def same(layouts: Iterator[str]) -> None:
    """Refuse sources of different layouts: one loss learns one.

    Raises:
        UserError: naming them.
    """
    if len(found := list(dict.fromkeys(layouts))) > 1:
        raise UserError(f"sources have the layouts {', '.join(found)}, and one loss learns one. Name dataset.columns")


def value(row: Mapping[str, Any], column: str) -> Any:
    """What a row holds in a column, or in a part of it."""
    if column in row:
        return row[column]
    first, _, rest = column.partition(".")
    inner = row.get(first)
    return value(inner, rest) if rest and isinstance(inner, Mapping) else None


def text(found: Any, column: str) -> str:
    """A text that says something.

    Raises:
        RowError: it does not.
    """
    if found is not None and not isinstance(found, str):
        raise RowError(f"{column} is no text but {type(found).__name__}")
    if not found or not found.strip():
        raise RowError(f"no text in {column}")
    return found


def number(found: Any, column: str, index: int, limits: Sequence[float] | None = None) -> float:
    """A score, brought to 0 to 1 where its limits are given.

    Raises:
        RowError: there is none.
        UserError: it is no number, or lies outside of the limits.
    """
    if found is None or (isinstance(found, float) and isnan(found)):
        raise RowError(f"no number in {column}")
    if not isinstance(found, int | float):
        raise UserError(f"row {index}: {column} holds {found!r}, where a number is expected")
    if limits is None:
        return float(found)
    low, high = limits
    if not low <= found <= high:
        raise UserError(f"row {index}: {column} holds {found}, and task.score_range is {low:g} to {high:g}")
    return (found - low) / (high - low)


def check_share(read: float, column: str, index: int) -> None:
    """Refuse a score that is not from 0 to 1, where the loss takes no other.

    Raises:
        UserError: naming the row.
    """
    if not 0 <= read <= 1:
        raise UserError(
            f"row {index}: {column} holds {read:g}, and the loss takes 0 to 1. Write the least and the most score: "
            "task.score_range=[0, 5]"
        )


def candidates(row: Mapping[str, Any], documents: str, labels: str, index: int) -> tuple[list[str], list[float]]:
    """The documents of a query, and how relevant each is.

    Raises:
        RowError: there are none, or one says nothing.
        UserError: the columns hold something else.
    """
    found, known = value(row, documents), value(row, labels)
    if not isinstance(found, list) or not isinstance(known, list) or len(found) != len(known):
        raise UserError(f"row {index}: {documents} and {labels} are not lists of one length")
    if not found:
        raise RowError("no candidates")
    return [text(each, documents) for each in found], [number(each, labels, index) for each in known]


def label(found: Any, column: str, index: int) -> float:
    """1 for texts that belong together, 0 for others.

    Raises:
        RowError: there is none.
        UserError: it is something else.
    """
    if (read := number(found, column, index)) not in (0, 1):
        raise UserError(
            f"row {index}: {column} holds {found!r}. A label is 1 where texts belong together and 0 where they do "
            f"not; for degrees write dataset.columns.score={column}"
        )
    return read


def check_range(limits: Sequence[float] | None, layout: str) -> None:
    """Refuse limits that are none, or that nothing reads.

    Raises:
        UserError: saying which.
    """
    if limits is None:
        return
    if len(limits) != 2 or limits[0] >= limits[1]:
        raise UserError(f"task.score_range={list(limits)}: expected the least and the most score, such as [0, 5]")
    if layout != "scored":
        raise UserError(f"task.score_range={list(limits)}: nothing reads it, because rows are {layout}")
