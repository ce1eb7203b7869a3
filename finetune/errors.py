"""What a user can be told: the exception tree and the exit codes. Knows nothing of what went wrong elsewhere.

FinetuneError        1   a fault of this program
  UserError          2   the input: a config, a file, a path
    ConfigError      2   every problem of a config at once
  MachineError       3   the machine: a package, a credential, a service
    MissingExtra     3   says which extra to install
Stopped             75   a run that was asked to stop did so, and can be resumed
"""

from collections.abc import Sequence
from dataclasses import dataclass

DONE, OUR_FAULT, USER, ENVIRONMENT, RESUMABLE = 0, 1, 2, 3, 75
DISTRIBUTION = "finetune-recipes"


class FinetuneError(Exception):
    """An error with a message for the user; the command line prints it without a traceback."""

    exit_code = OUR_FAULT


class UserError(FinetuneError):
    """The input is wrong; the message says what was written, what was expected and what to write."""

    exit_code = USER


class MachineError(FinetuneError):
    """The machine cannot do what was asked; the message says what to change on it."""

    exit_code = ENVIRONMENT


class MissingExtra(MachineError):
    """A package of an extra is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed. Install it with: pip install "{DISTRIBUTION}[{extra}]"')


class Stopped(BaseException):
    """The run was asked to stop and can be resumed; the message says how.

    Raised where a signal comes, so no library's `except Exception` may take it for a fault of its own.
    """

    exit_code = RESUMABLE


BY_CODE: dict[int, type[FinetuneError] | type[Stopped]] = {
    USER: UserError,
    ENVIRONMENT: MachineError,
    RESUMABLE: Stopped,
}
"""What another process of ours ended by, from its exit code."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config: the key, where it was written, what is wrong, what to write."""

    key: str
    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f"\n    {self.hint}" if self.hint else ""
        return f"{self.key} ({self.where}): {self.what}{hint}"


class ConfigError(UserError):
    """Every problem found in a config, reported together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        heading = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{heading} in the config", *(f"  {problem}" for problem in problems)]))
