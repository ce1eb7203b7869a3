"""A composed config against what is accepted: the whole front door, and every problem at once."""

from typing import Any

from pydantic import TypeAdapter

from finetune.config import ours, safety, theirs
from finetune.config.compose import Composed, compose
from finetune.config.origin import nearest_origin
from finetune.config.ours import choice
from finetune.config.places import Chosen
from finetune.config.schema import Config
from finetune.config.suggest import did_you_mean
from finetune.config.task import Task, task_class, tasks
from finetune.errors import ConfigError, Problem

CODE = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")


def load_config(arguments: list[str]) -> tuple[Config, Composed]:
    """Compose and check: the whole front door.

    Raises:
        UserError: nothing could be composed.
        ConfigError: every problem of the composed config, at once.
    """
    composed = compose(arguments)
    return check(composed), composed


def check(composed: Composed) -> Config:
    """The typed config, or every problem found.

    Raises:
        ConfigError: at least one key or value is not accepted.
    """
    if problems := _problems(composed):
        raise ConfigError(problems)
    return read(composed.values)


def read(values: dict[str, Any]) -> Config:
    """A Config from plain values that were checked before, such as those of a frozen plan."""
    task = task_class(values["task"]["name"])
    typed = {**values, "task": TypeAdapter(task).validate_python(values["task"])}
    return TypeAdapter(Config).validate_python(typed)


def dump(config: Config) -> dict[str, Any]:
    """Plain values of a Config; `read` gives it back."""
    values: dict[str, Any] = TypeAdapter(Config).dump_python(config, mode="json")
    return values


def _problems(composed: Composed) -> list[Problem]:
    """One problem a key; nothing is said of a group whose choice is wrong already, since it would be of another."""
    task, wrong_task = _task(composed)
    unread = {problem.key for problem in composed.problems}
    if "task" in unread or wrong_task:
        unread |= {"task", "trainer", "dataset.columns"}
    classes = {"trainer": task.arguments_class}
    for group in theirs.NOTHING:
        if path := theirs.method_class(group, composed.values.get(group)):
            classes[group] = path
    chosen = Chosen(task, classes)
    found = [
        *safety.problems(composed),
        *_code(composed, composed.values),
        *ours.problems(composed, chosen),
        *theirs.problems(composed, chosen),
    ]
    first = [*composed.problems, *wrong_task]
    unique = {problem.key: problem for problem in reversed(found) if not _is_below(problem.key, unread)}
    return [*first, *reversed(unique.values())]


def _is_below(key: str, keys: set[str]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in keys)


def _task(composed: Composed) -> tuple[type[Task], list[Problem]]:
    """The chosen task; where there is none, any, to check the rest with, and the problem."""
    node, where = composed.values.get("task"), nearest_origin("task.name", composed.origins)
    if isinstance(node, dict) and node.get("name") in tasks():
        return task_class(node["name"]), []
    name = str(node.get("name") if isinstance(node, dict) else node)
    if name in tasks():
        what, hint = f"wrote {name}, expected a mapping of keys.", f"Write {choice('task', name)}"
    else:
        what, hint = f"{name} is not a task.", did_you_mean(name, tasks()) or f"Tasks: {', '.join(tasks())}"
    return next(iter(tasks().values()), Task), [Problem("task", where, what, hint)]


def _code(composed: Composed, node: Any, path: str = "") -> list[Problem]:
    """Keys that would name code to run, at any depth: nothing a user writes does."""
    if isinstance(node, list):
        return [problem for at, item in enumerate(node) for problem in _code(composed, item, f"{path}{at}.")]
    if not isinstance(node, dict):
        return []
    own = [_no_code(f"{path}{key}", composed) for key in node if key in CODE]
    return own + [problem for key, value in node.items() for problem in _code(composed, value, f"{path}{key}.")]


def _no_code(key: str, composed: Composed) -> Problem:
    what = "there is no such key; nothing in a config names code to run."
    return Problem(
        key, nearest_origin(key, composed.origins), what, "Own code comes in as a plug-in: a task's entry point."
    )
