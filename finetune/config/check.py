"""A composed config against what is accepted: ours by pydantic, the libraries' by their own types; all problems at once."""

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from finetune.config import options
from finetune.config.compose import Composed, compose
from finetune.config.origin import nearest_origin
from finetune.config.schema import Config
from finetune.config.suggest import did_you_mean, nearest
from finetune.config.task import Task, task_class
from finetune.errors import ConfigError, Problem, UserError

OWNED = {
    "output_dir": "output_dir, at the top",
    "seed": "seed, at the top",
    "bf16": "precision=bf16",
    "fp16": "precision=fp16",
    "report_to": "tracking=wandb, tracking=trackio or tracking=tensorboard",
    "push_to_hub": "publish=hub",
    "hub_model_id": "publish.repo_id",
    "hub_private_repo": "publish.private",
    "hub_token": "the environment variable HF_TOKEN; a token in a config would reach files",
    "hub_strategy": "publish=hub",
    "remove_unused_columns": "nothing: the columns are made by the task",
    "disable_tqdm": "nothing: progress is shown by finetune",
    "do_train": "finetune train",
    "do_eval": "finetune evaluate",
    "do_predict": "finetune predict",
}
"""Trainer arguments that another key decides, and that key."""


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
    task = _task(composed)
    problems = [*_ours(composed, task), *_theirs(composed, task)]
    if problems:
        raise ConfigError(problems)
    return read(composed.values)


def read(values: dict[str, Any]) -> Config:
    """A Config from plain values that were checked before, such as those of a frozen plan."""
    task = task_class(values["task"]["name"])
    config = TypeAdapter(Config).validate_python({**values, "task": TypeAdapter(task).validate_python(values["task"])})
    return config


def dump(config: Config) -> dict[str, Any]:
    """Plain values of a Config; `read` gives it back."""
    values: dict[str, Any] = TypeAdapter(Config).dump_python(config, mode="json")
    return values


def _task(composed: Composed) -> type[Task]:
    node = composed.values.get("task")
    if not isinstance(node, dict):
        raise UserError(f"task: write task={node}, a mapping of its options is made from that")
    return task_class(str(node.get("name")))


def _ours(composed: Composed, task: type[Task]) -> Iterator[Problem]:
    values = dict(composed.values)
    for key, cls in (("task", task), (None, Config)):
        subject = values[key] if key else values | {"task": Task(name="")}
        try:
            TypeAdapter(cls).validate_python(subject)
        except ValidationError as error:
            for detail in error.errors():
                location = [key, *detail["loc"]] if key else list(detail["loc"])
                yield _explain(location, detail, composed, cls)


def _explain(location: list[Any], detail: Any, composed: Composed, cls: type) -> Problem:
    key = ".".join(str(part) for part in location if not _is_branch(part))
    where = nearest_origin(key, composed.origins)
    written = detail["input"]
    if detail["type"] == "unexpected_keyword_argument":
        return Problem(key, where, "there is no such key.", _sibling_hint(key, location, cls, composed))
    if detail["type"] == "missing":
        return Problem(key, where, "must be set.", f"Write {key}=… or add it to the recipe.")
    message = detail["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
    return Problem(key, where, f"wrote {_short(written)}, {message}.", _type_hint(key, written, detail))


def _is_branch(part: Any) -> bool:
    """Pydantic names the branch of a union in the location; a user has written no such key."""
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "float", "constrained-int"))


def _sibling_hint(key: str, location: list[Any], cls: type, composed: Composed) -> str:
    """The nearest key beside it, or the place further down where a key of that name lives."""
    word = str(location[-1])
    siblings = _siblings(location, cls)
    if close := nearest(word, siblings):
        return f"Did you mean {'.'.join([*map(str, location[:-1]), close])}?"
    trainer = options.of(_task(composed).arguments_class)
    if len(location) == 1 and word in trainer:
        return f"Did you mean trainer.{word}?"
    if len(location) == 1 and (close := nearest(word, trainer)):
        return f"Did you mean trainer.{close}?"
    return f"Keys here: {', '.join(siblings)}"


def _siblings(location: list[Any], cls: type) -> list[str]:
    from dataclasses import fields, is_dataclass
    from typing import get_type_hints

    for part in location[:-1] if cls is Config else location[1:-1]:
        cls = get_type_hints(cls).get(str(part), cls)
    return [field.name for field in fields(cls)] if is_dataclass(cls) else []


def _type_hint(key: str, written: Any, detail: Any) -> str:
    if detail["type"] == "literal_error":
        choices = [choice.strip(" '") for choice in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return did_you_mean(str(written), choices)
    if detail["type"] == "dataclass_type" and isinstance(written, str):
        return f"It is a mapping of keys; a path is written {key}.path={written}"
    return ""


def _theirs(composed: Composed, task: type[Task]) -> Iterator[Problem]:
    """The open mappings against the installed libraries."""
    trainer = _mapping(composed, "trainer")
    yield from _owned(trainer, {**OWNED, **task.owned}, composed)
    rest = {name: value for name, value in trainer.items() if name not in {**OWNED, **task.owned}}
    yield from _options("trainer", rest, task.arguments_class, composed)
    for group in ("adapter", "quantization"):
        yield from _method(group, _mapping(composed, group), composed)


def _mapping(composed: Composed, group: str) -> dict[str, Any]:
    node = composed.values.get(group)
    return node if isinstance(node, dict) else {}


def _owned(trainer: dict[str, Any], owned: dict[str, str], composed: Composed) -> Iterator[Problem]:
    for name in trainer:
        if name in owned:
            where = nearest_origin(f"trainer.{name}", composed.origins)
            yield Problem(f"trainer.{name}", where, "is decided elsewhere.", f"Write {owned[name]}.")


def _method(group: str, node: dict[str, Any], composed: Composed) -> Iterator[Problem]:
    method = node.get("method")
    given = {name: value for name, value in node.items() if name != "method"}
    nothing = {"adapter": "full", "quantization": "none"}[group]
    if method == nothing:
        for name in given:
            where = nearest_origin(f"{group}.{name}", composed.origins)
            yield Problem(f"{group}.{name}", where, f"is set, and {group}={nothing} uses nothing of it.")
    elif method in options.methods(group):
        yield from _options(group, given, options.methods(group)[method], composed)
    else:
        where = nearest_origin(f"{group}.method", composed.origins)
        hint = did_you_mean(str(method), options.methods(group))
        yield Problem(f"{group}.method", where, f"{method} is not a method of the installed library.", hint)


def _options(group: str, given: dict[str, Any], class_path: str, composed: Composed) -> Iterator[Problem]:
    accepted = options.of(class_path)
    for name, value in given.items():
        key = f"{group}.{name}"
        where = nearest_origin(key, composed.origins)
        if name not in accepted:
            yield Problem(key, where, f"is not an option of {class_path}.", _option_hint(group, name, accepted))
        elif error := next(Draft202012Validator(accepted[name].schema).iter_errors(value), None):
            yield Problem(
                key,
                where,
                f"wrote {_short(value)}. {_expected(error.schema, accepted[name])}",
                _choice_hint(value, accepted[name]),
            )


def _option_hint(group: str, name: str, accepted: dict[str, options.Option]) -> str:
    if name in options.REPLACED:
        return f"It was replaced by {options.REPLACED[name]}."
    close = nearest(name, accepted)
    return f"Did you mean {group}.{close}?" if close else ""


def _expected(schema: Any, option: options.Option) -> str:
    choices, types = _choices(option.schema), sorted(_types(option.schema))
    return f"Expected one of: {', '.join(choices)}." if choices else f"Expected {' or '.join(types)}."


def _choice_hint(value: Any, option: options.Option) -> str:
    return did_you_mean(str(value), _choices(option.schema))


def _choices(schema: dict[str, Any]) -> list[str]:
    """The words a schema admits, wherever in it they stand."""
    own = [str(choice) for choice in schema.get("enum", [])]
    nested = [*schema.get("anyOf", []), *schema.get("$defs", {}).values()]
    return [*own, *(choice for part in nested for choice in _choices(part))]


def _types(schema: dict[str, Any]) -> set[str]:
    own = {str(schema["type"])} if "type" in schema else set()
    return own.union(*(_types(part) for part in schema.get("anyOf", [])))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
