"""A composed config against what is accepted: the whole front door, and every problem at once."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from finetune.config import conflicts, ours, safety, theirs, unread
from finetune.config.compose import Composed, compose
from finetune.config.installed import task_class, tasks
from finetune.config.origin import nearest_origin
from finetune.config.ours import choice, validator
from finetune.config.places import Chosen
from finetune.config.schema import Config
from finetune.config.suggest import did_you_mean
from finetune.config.task import Task
from finetune.errors import ConfigError, Problem

CODE = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")


def load_config(arguments: list[str]) -> tuple[Config, Composed]:
    """Compose and check: the whole front door.

    Raises:
        UserError: nothing could be composed.
        ConfigError: every problem of the composed config, at once.
    """
    composed = compose(arguments)
    config = check(composed)
    return config, replace(composed, notes=(*composed.notes, *unread.overruled(composed, chosen_by(composed)[0])))


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
    typed = {**values, "task": validator(task).validate_python(values["task"])}
    return validator(Config).validate_python(typed)


def dump(config: Config) -> dict[str, Any]:
    """Plain values of a Config; `read` gives it back."""
    values: dict[str, Any] = validator(Config).dump_python(config, mode="json")
    return values


def chosen_by(composed: Composed) -> tuple[Chosen, list[Problem]]:
    """The classes that the config chooses, and what is wrong with the choice of the task."""
    task, wrong = _task(composed)
    classes = {"trainer": task.arguments_class}
    for group in theirs.NOTHING:
        if path := theirs.method_class(group, composed.values.get(group)):
            classes[group] = path
    return Chosen(task, classes), wrong


def _problems(composed: Composed) -> list[Problem]:
    """One problem a key; nothing is said of a group whose choice is wrong already, since it would be of another."""
    chosen, wrong_task = chosen_by(composed)
    unread = {problem.key for problem in composed.problems}
    if "task" in unread or wrong_task:
        unread |= {"task", "trainer", "dataset.columns"}
    first = [*composed.problems, *wrong_task]
    found = [problem for of in ALONE for problem in of(composed, chosen)]
    right = replace(composed, values=_without(composed.values, {problem.key for problem in [*first, *found]}))
    found += [problem for of in TOGETHER for problem in of(right, chosen)]
    unique = {problem.key: problem for problem in reversed(found) if not _is_below(problem.key, unread)}
    return [*first, *reversed(unique.values())]


def _without(values: dict[str, Any], keys: set[str], prefix: str = "") -> dict[str, Any]:
    """What is left when the keys that are wrong by themselves are taken out."""
    left = {name: value for name, value in values.items() if f"{prefix}{name}" not in keys}
    return {n: _without(v, keys, f"{prefix}{n}.") if isinstance(v, dict) else v for n, v in left.items()}


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


def _everywhere(composed: Composed, _: Chosen) -> Iterator[Problem]:
    """What is refused at any depth: what no config may hold, and keys that would name code to run."""
    yield from safety.problems(composed)
    for key, _value in _every(composed.values):
        if key.rpartition(".")[2] in CODE:
            yield _no_code(key, composed)


def _every(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key and value, inside lists too."""
    items = enumerate(node) if isinstance(node, list) else node.items() if isinstance(node, dict) else ()
    for name, value in items:
        yield f"{path}{name}", value
        yield from _every(value, f"{path}{name}.")


def _no_code(key: str, composed: Composed) -> Problem:
    what = "there is no such key; nothing in a config names code to run."
    return Problem(
        key, nearest_origin(key, composed.origins), what, "Own code comes in as a plug-in: a task's entry point."
    )


ALONE = (_everywhere, ours.problems, theirs.problems)
"""Who looks at each key by itself; of two that find fault with one, the earlier one speaks."""
TOGETHER = (conflicts.problems, unread.problems)
"""Who looks at keys beside each other, of those that are right by themselves."""
