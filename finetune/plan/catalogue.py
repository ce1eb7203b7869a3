"""Checks as data: each has a name, passes with a detail or fails with a reason, and may be waived by its name.

Knows how checks are run and told; knows none of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.config.suggest import did_you_mean
from finetune.errors import ENVIRONMENT, USER, FinetuneError, UserError

Look = Callable[[], str]
"""What is found, in words; raises where the run cannot work."""
MARKS = {"passed": "✓", "failed": "✗", "waived": "~"}


@dataclass(frozen=True)
class Check:
    """One check, as it ended."""

    name: str
    status: Literal["passed", "failed", "waived"]
    detail: str
    exit_code: int = 0
    """Of a failed one: 2 the input, 3 the machine."""

    def __str__(self) -> str:
        return f"{MARKS[self.status]} {self.name}: {self.detail}"


class PlanError(UserError):
    """Every check that failed, reported together."""

    def __init__(self, failed: Sequence[Check]) -> None:
        self.failed = tuple(failed)
        self.exit_code = USER if any(check.exit_code != ENVIRONMENT for check in failed) else ENVIRONMENT
        if len(failed) == 1:
            super().__init__(failed[0].detail)
        else:
            lines = "\n".join(f"  {check.name}: {check.detail}" for check in failed)
            super().__init__(f"{len(failed)} checks of the plan failed\n{lines}")


def looked_at(
    looks: Iterable[tuple[str, Look]], waived: Sequence[str], waivable: Iterable[str] = ()
) -> Iterator[Check]:
    """Every check, one after the other; a failed one that was waived does not stop the run.

    Args:
        waived: `plan.waive`.
        waivable: the names that may be waived: what they find is a risk, not an impossibility.
    """
    for name, look in looks:
        try:
            yield Check(name, "passed", look())
        except FinetuneError as error:
            status: Literal["waived", "failed"] = "waived" if name in waived and name in waivable else "failed"
            yield Check(name, status, str(error), error.exit_code)


def refuse_failed(checks: Iterable[Check]) -> None:
    """Stop where a check failed.

    Raises:
        PlanError: naming all of them.
    """
    if failed := [check for check in checks if check.status == "failed"]:
        raise PlanError(failed)


def check_waivers(waived: Sequence[str], waivable: Sequence[str]) -> None:
    """Refuse a waiver of what cannot be waived.

    Raises:
        UserError: naming what can.
    """
    for name in waived:
        if name not in waivable:
            hint = did_you_mean(name, waivable) or f"Checks that can be waived: {', '.join(waivable)}"
            raise UserError(f"plan.waive={name}: no check of that name can be waived. {hint}")
