"""Which column plays which role. Knows no task's roles and no rows."""

from collections.abc import Sequence

from finetune.config.suggest import did_you_mean
from finetune.errors import UserError


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
