"""Which column plays which role, and the text a row holds in it. Knows no task's roles.

A column of mappings has columns of its own, behind a dot: `translation.en`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune.config.suggest import did_you_mean
from finetune.config.task import RowError
from finetune.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def names(rows: Dataset) -> list[str]:
    """The columns there are, with those inside of columns."""
    return [name for column, kind in rows.features.items() for name in (column, *_inside(column, kind))]


def _inside(column: str, kind: Any) -> Iterator[str]:
    keys = kind if isinstance(kind, dict) else getattr(kind, "languages", None) or ()
    yield from (f"{column}.{key}" for key in keys)


def detect(
    names: Sequence[str], given: dict[str, str], usual: Mapping[str, Sequence[str]], optional: Sequence[str] = ()
) -> dict[str, str]:
    """Role to column: as given, else the first usual name that is there.

    Args:
        names: the columns there are.
        given: role to column, as the user named them.
        usual: role to the names that data sets use.
        optional: roles that may be missing.
    Raises:
        UserError: a role has no column, or one that is not there.
    """
    check(given, names)
    found = {role: next((name for name in known if name in names), "") for role, known in usual.items()} | given
    for role, column in found.items():
        if not column and role not in optional:
            raise UserError(f"no column for the {role} among {', '.join(names)}. Write dataset.columns.{role}=NAME")
    return {role: column for role, column in found.items() if column}


def check(columns: dict[str, str], names: Sequence[str]) -> None:
    """Refuse a role whose column is not there.

    Args:
        columns: role to column.
        names: the columns there are.
    Raises:
        UserError: naming the columns, and the one most like what was written.
    """
    for role, column in columns.items():
        if column not in names:
            hint = did_you_mean(column, names)
            raise UserError(f"dataset.columns.{role}={column}: the columns are {', '.join(names)}. {hint}".rstrip())


def text(row: Mapping[str, Any], column: str) -> str:
    """The text a row holds in a column.

    Raises:
        RowError: there is none.
    """
    found = row.get(column)
    outer, _, inner = column.partition(".")
    if column not in row and isinstance(row.get(outer), dict):
        found = row[outer].get(inner)
    if found is not None and not isinstance(found, str):
        raise RowError(f"{column} is no text but {type(found).__name__}")
    if not found or not found.strip():
        raise RowError(f"no text in {column}")
    return found


def asked(inputs: Sequence[Any], column: str) -> list[str]:
    """The texts that a user asks about: each is a text, or a row with the column.

    Raises:
        UserError: one is something else.
    """
    found = []
    for number, item in enumerate(inputs):
        try:
            found.append(text(item if isinstance(item, dict) else {column: item}, column))
        except RowError as error:
            raise UserError(f"input {number}: {error}; write a text, or a row with {column}") from None
    return found
