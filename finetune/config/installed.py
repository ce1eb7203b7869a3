"""How tasks are found: each is registered under an entry point group, ours like anybody's.

A task's module must stay cheap to import (name library classes as strings), because listing tasks imports them all.
"""

import hashlib
import inspect
import sys
from functools import cache
from importlib.metadata import entry_points

from finetune.config.suggest import did_you_mean
from finetune.config.task import Task
from finetune.errors import UserError

ENTRY_POINTS = "finetune.tasks"


@cache
def tasks() -> dict[str, type[Task]]:
    """Every installed task by its name."""
    return {point.name: point.load() for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda p: p.name)}


def task_class(name: str) -> type[Task]:
    """The task called `name`.

    Raises:
        UserError: no installed task has that name.
    """
    if name in tasks():
        return tasks()[name]
    raise UserError(f"task={name} is not a task. Tasks: {', '.join(tasks())}. {did_you_mean(name, tasks())}".rstrip())


def code_of(task: type[Task]) -> dict[str, dict[str, str]]:
    """What the key of rows must hold of the code that makes them: `code`, module to a hash of its source.

    Nothing of ours, which has a version.
    """
    names = {cls.__module__ for cls in task.__mro__[:-1]}
    theirs = sorted(name for name in names if not name.startswith("finetune."))
    sources = {name: inspect.getsource(sys.modules[name]).encode() for name in theirs}
    found = {name: hashlib.sha256(source).hexdigest()[:16] for name, source in sources.items()}
    return {"code": found} if found else {}
