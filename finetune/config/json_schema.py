"""JSON Schema of recipes and of the files of each group, for editors.

A recipe's `defaults` choose what its other keys may be, so the schema follows them: the options of `trainer` are those
of the chosen task's arguments class, the keys of `adapter` those of the chosen method. Loads no torch when the options
of the installed libraries are at hand.
"""

import json
from collections.abc import Iterable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from finetune.config import choices, groups, inheritance, properties, recipes
from finetune.config.docs import field_docs
from finetune.config.installed import tasks
from finetune.config.properties import Schema, mapping
from finetune.config.schema import Config
from finetune.config.suggest import did_you_mean
from finetune.config.task import Task
from finetune.errors import MissingExtra, UserError

DRAFT = "http://json-schema.org/draft-07/schema#"
RECIPE = "recipe"
PLAIN: Schema = {"type": "object"}


def names() -> list[str]:
    """What there is a schema of."""
    return [RECIPE, *groups.names()]


def told(name: str | None, folder: Path | None) -> str:
    """What a user asked for: a schema as text, or the files that were written, one a line.

    Raises:
        UserError: there is no such group, or the folder cannot be written.
    """
    if folder is None:
        return text(name or RECIPE)
    return "".join(f"{file}\n" for file in write([name] if name else names(), folder))


def of(name: str) -> Schema:
    """The schema of a recipe, or of the files of a group.

    Raises:
        UserError: there is no such group.
    """
    if name == RECIPE:
        return _recipe()
    if name in groups.names():
        return _group(name)
    raise UserError(f"there is no schema of {name}. {did_you_mean(name, names()) or ', '.join(names())}")


def write(wanted: Iterable[str], folder: Path) -> list[Path]:
    """One file for each schema, named after it.

    Raises:
        UserError: the folder cannot be written.
    """
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            files.append(folder / f"{name}.json")
            files[-1].write_text(text(name), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None
    return files


def _recipe() -> Schema:
    said = field_docs(Config)
    top = {name: _top(name, hint, said.get(name, "")) for name, hint in properties.hints(Config).items()}
    return {
        "$schema": DRAFT,
        "description": "A recipe of finetune.",
        **mapping({"defaults": _defaults(), **top}),
        "allOf": [choices.narrowed(group) for group in (groups.TASK, *groups.METHODS)],
        "definitions": _definitions(),
    }


def _top(name: str, hint: Any, description: str) -> Schema:
    """A key at the top; what the choice of another decides stays open here."""
    if name in (groups.TASK, "trainer", *groups.METHODS):
        return PLAIN
    if not is_dataclass(hint):
        return properties.value(TypeAdapter(hint).json_schema(), description)
    found = properties.ours(hint)
    if name == "dataset":
        found["properties"]["columns"] = PLAIN
    return found


def _defaults() -> Schema:
    """Recipes that are inherited, and choices from groups."""
    offered = {f"override /{group}": {"enum": groups.offered(group)} for group in groups.names()}
    inherited = {"enum": [*recipes.names(), inheritance.SELF], "description": "A recipe that is inherited."}
    choice = {**mapping(offered, "One option of a group."), "minProperties": 1, "maxProperties": 1}
    return {
        "type": "array",
        "description": f"What the recipe inherits, and what it chooses. {inheritance.FORM}",
        "items": {"anyOf": [inherited, choices.FILE, choice]},
    }


def _definitions() -> dict[str, Schema]:
    """What each choice makes of the keys it decides."""
    found = {f"task.{name}": _of_task(cls) for name, cls in tasks().items()}
    found["task.any"] = {"properties": {group: PLAIN for group in (groups.TASK, "trainer")}}
    for group in groups.METHODS:
        for name in choices.methods(group):
            found[f"{group}.{name}"] = {"properties": {group: properties.method(group, name, Task)}}
        found[f"{group}.any"] = {"properties": {group: PLAIN}}
    return found


def _of_task(cls: type[Task]) -> Schema:
    dataset = {"properties": {"columns": properties.columns(cls)}}
    return {"properties": {groups.TASK: properties.ours(cls), "trainer": _trainer(cls, cls), "dataset": dataset}}


def _trainer(cls: type[Task], owner: type[Task]) -> Schema:
    """The options of a task's trainer; open where the extra that brings it is not installed."""
    try:
        return properties.theirs("trainer", cls.arguments_class, owner)
    except MissingExtra:
        return PLAIN


def _group(name: str) -> Schema:
    """A file of a group: its keys, and the options of the same group that it inherits."""
    return {"$schema": DRAFT, **_keys(name)}


def _keys(name: str) -> Schema:
    defaults = {"type": "array", "description": "Options of the group that are inherited."}
    if name in groups.METHODS:
        return _method_file(name, defaults)
    if name == groups.TASK:
        found = mapping(
            {key: part for cls in tasks().values() for key, part in properties.ours(cls)["properties"].items()}
        )
    elif name == "trainer":
        found = mapping({})
        for cls in tasks().values():
            found["properties"] |= _trainer(cls, Task).get("properties", {})
    else:
        found = properties.ours(properties.hints(Config)[name])
    found["properties"] = {"defaults": defaults} | found["properties"]
    return found


def _method_file(name: str, defaults: Schema) -> Schema:
    """The file of a method names it, or inherits a file that does."""
    schema: Schema = {"required": ["method"]}
    inherits = [
        (choices.contains({"const": option}), choices.method_of(name, option)) for option in recipes.groups()[name]
    ]
    named = [
        ({"required": ["method"], "properties": {"method": {"const": each}}}, each) for each in choices.methods(name)
    ]
    for condition, method in reversed([*named, *inherits]):
        keys = properties.method(name, method, Task)
        keys["properties"] = {"defaults": defaults} | keys["properties"]
        schema = {"if": condition, "then": keys, "else": schema}
    return {"type": "object", "properties": {"method": {"enum": choices.methods(name)}}, **schema}


def text(name: str) -> str:
    """A schema as it is printed.

    Raises:
        UserError: there is no such group.
    """
    return json.dumps(of(name), indent=1) + "\n"
