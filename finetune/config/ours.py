"""The keys that are ours against their dataclasses; pydantic's findings in our words, one problem a key."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from finetune.config import written
from finetune.config.compose import Composed
from finetune.config.launch import PATTERNS
from finetune.config.origin import COMMAND_LINE, UNWRITTEN, nearest_origin
from finetune.config.places import Chosen, instead, names_of, nearly
from finetune.config.schema import Config
from finetune.config.suggest import did_you_mean, nearest
from finetune.config.task import Task
from finetune.errors import Problem

EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "string_pattern_mismatch": "a plain name, without / and not beginning with a dot",
    "string_too_long": "at most {max_length} characters",
    "list": "a list, such as [a, b]",
    "dict": "a mapping of keys",
    "dataclass": "a mapping of keys",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
}
"""Pydantic's kind of error to what was expected."""

validator: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""What reads values as a class, made once: it takes 20 ms."""
Found = tuple[tuple[Any, ...], Any]
"""The path of a key, and what pydantic says of it."""


def problems(composed: Composed, chosen: Chosen) -> Iterator[Problem]:
    """Everything wrong with what is ours."""
    by_key: dict[tuple[Any, ...], list[Any]] = {}
    for path, detail in _found(composed, chosen.task):
        by_key.setdefault(path, []).append(detail)
    for path, details in by_key.items():
        # A value that fits no branch of a union fails once for each: the deepest failure says most.
        if not any(other[: len(path)] == path != other for other in by_key):
            yield _explained(path, details, composed, chosen)
    yield from _roles(composed, chosen)
    yield from _no_data(composed)


def _no_data(composed: Composed) -> Iterator[Problem]:
    """A data set has a path, or sources that have one each."""
    dataset = composed.values.get("dataset")
    if isinstance(dataset, dict) and dataset.get("path") is None and not dataset.get("sources"):
        yield _must_be_set("dataset.path", nearest_origin("dataset.path", composed.origins), composed.recipe)


def _found(composed: Composed, task: type[Task]) -> Iterator[Found]:
    whole = composed.values | {"task": Task(name="")}
    for prefix, cls, subject in ((("task",), task, composed.values.get("task")), ((), Config, whole)):
        try:
            validator(cls).validate_python(subject)
        except ValidationError as error:
            for detail in error.errors():
                yield _path((*prefix, *detail["loc"]), detail, composed.values), detail


def _path(location: Sequence[Any], detail: Any, values: Any) -> tuple[Any, ...]:
    """The location without the branches of unions, which pydantic names and nobody has written."""
    path: list[Any] = []
    for part in location:
        if (isinstance(values, dict) and part in values) or (
            isinstance(values, list) and isinstance(part, int) and part < len(values)
        ):
            values = values[part]
            path.append(part)
        elif detail["type"] == "missing" and part == location[-1]:
            path.append(part)
    return tuple(path)


def _explained(path: tuple[Any, ...], details: Sequence[Any], composed: Composed, chosen: Chosen) -> Problem:
    key, kind, value = ".".join(map(str, path)), details[0]["type"], details[0]["input"]
    where = nearest_origin(key, composed.origins)
    if kind in ("unexpected_keyword_argument", "invalid_key"):
        return Problem(key, where, "there is no such key.", _instead(path, chosen))
    if kind in ("missing", "string_too_short"):
        return _must_be_set(key, where, composed.recipe)
    expected = " or ".join(dict.fromkeys(map(_expected, details)))
    return Problem(key, where, f"wrote {written.short(key, value)}, expected {expected}.", _hint(key, value, details))


def _must_be_set(key: str, where: str, recipe: str | None) -> Problem:
    place = where if where == COMMAND_LINE or recipe else UNWRITTEN
    return Problem(key, place, "must be set.", f"Write {key}=… or add it to the recipe.")


def _expected(detail: Any) -> str:
    kind = detail["type"]
    if kind == "literal_error":
        return f"one of: {', '.join(_choices(detail))}"
    if words := PATTERNS.get(detail.get("ctx", {}).get("pattern")):
        return words
    words = EXPECTED.get(kind) or EXPECTED.get(kind.split("_")[0], detail["msg"])
    return words.format(**detail.get("ctx", {}))


def _hint(key: str, value: Any, details: Sequence[Any]) -> str:
    kinds = {detail["type"].split("_")[0] for detail in details}
    if isinstance(value, str) and "dataclass" in kinds:
        return f"Write {key}.path={value}, or {choice(key, value)}"
    if isinstance(value, str) and "dict" in kinds and "." not in key:
        return f"Write {choice(key, value)}"
    if value is None and kinds & {"dataclass", "dict"}:
        return "Leave it out where nothing is set."
    if "list" in kinds and isinstance(value, str):
        return f"Write {key}=[{value}]"
    if "literal" in kinds:
        return did_you_mean(str(value), [word for detail in details for word in _choices(detail)])
    if kinds == {"string"} and isinstance(value, int | float | bool):
        return f"Write it in quotes: {written.quoted(f'{key}={value}')}"
    return ""


def _choices(detail: Any) -> list[str]:
    """The words of a Literal, which pydantic gives as `'a', 'b' or 'c'`; none of another type."""
    return re.findall(r"'([^']*)'", detail["ctx"]["expected"]) if detail["type"] == "literal_error" else []


def choice(group: str, option: str) -> str:
    """How an option of a group is chosen: a plain key in a recipe sets a value."""
    return f"{group}={option} on the command line, or under defaults: `- override /{group}: {option}`"


def _instead(path: tuple[Any, ...], chosen: Chosen) -> str:
    """The nearest key beside it, or the place where a key of that name lives."""
    word, siblings = str(path[-1]), _siblings(path, chosen.task)
    if "." in word:
        head, _, rest = word.partition(".")
        return f"In a file a key is nested: {head}: {{{rest.replace('.', ': {')}: …{'}' * (rest.count('.') + 1)}"
    if here := instead(word, chosen):
        return here
    if close := nearest(word, siblings):
        return f"Did you mean {'.'.join([*map(str, path[:-1]), close])}?"
    return nearly(word, chosen) or f"Keys here: {', '.join(siblings)}"


def _siblings(path: tuple[Any, ...], task: type[Task]) -> list[str]:
    cls: Any = Config
    for part in path[:-1]:
        # Of a list, the class of its entries.
        cls = (
            task
            if part == "task"
            else get_args(cls)[0]
            if isinstance(part, int)
            else get_type_hints(cls).get(str(part))
        )
    return [*names_of(cls), *(["defaults"] if cls is Config else [])]


def _roles(composed: Composed, chosen: Chosen) -> Iterator[Problem]:
    """Columns are named by the roles that the task knows."""
    dataset = composed.values.get("dataset")
    columns = dataset.get("columns") if isinstance(dataset, dict) else None
    for role in columns if isinstance(columns, dict) and chosen.task.roles else ():
        if role not in chosen.task.roles:
            key = f"dataset.columns.{role}"
            close = nearest(str(role), chosen.task.roles)
            hint = f"Did you mean dataset.columns.{close}?" if close else f"Roles: {', '.join(chosen.task.roles)}"
            problem = f"task={_named(composed.values)} has no such role."
            yield Problem(key, nearest_origin(key, composed.origins), problem, hint)


def _named(values: dict[str, Any]) -> Any:
    """The name of the task, wherever it could be read."""
    task = values.get("task")
    return task.get("name") if isinstance(task, dict) else task
