"""JSON Schema of recipes and of the files of each group, for editors.

A recipe's `defaults` choose what its other keys may be, so the schema follows them: the options of `trainer` are those
of the chosen task's arguments class, the keys of `adapter` those of the chosen method. Loads no torch when the options
of the installed libraries are at hand.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finetune.config import descriptions, groups, inheritance, options, origin, properties, recipes
from finetune.config.properties import Schema, mapping
from finetune.config.schema import Config
from finetune.config.suggest import did_you_mean
from finetune.config.task import Task, tasks
from finetune.config.theirs import NOTHING
from finetune.errors import UserError

DRAFT = "http://json-schema.org/draft-07/schema#"
RECIPE = "recipe"
FILE = {"type": "string", "pattern": r"\.ya?ml$"}
PLAIN: Schema = {"type": "object"}
Case = tuple[Schema, Schema]
"""A condition, and what holds where it is met."""


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
    said = descriptions.of(Config)
    top = {name: _top(name, hint, said.get(name, "")) for name, hint in properties.hints(Config).items()}
    return {
        "$schema": DRAFT,
        "description": "A recipe of finetune.",
        **mapping({"defaults": _defaults(), **top}),
        "allOf": [_narrowed(group, _cases(group)) for group in (groups.TASK, *groups.METHODS)],
        "definitions": _definitions(),
    }


def _top(name: str, hint: Any, description: str) -> Schema:
    """A key at the top; what the choice of another decides stays open here."""
    if name in (groups.TASK, "trainer", *groups.METHODS):
        return PLAIN
    if not is_dataclass(hint):
        return properties.value(properties.TypeAdapter(hint).json_schema(), description)
    found = properties.ours(hint)
    if name == "dataset":
        found["properties"]["columns"] = PLAIN
    return found


def _defaults() -> Schema:
    """Recipes that are inherited, and choices from groups."""
    choices = {f"override /{group}": {"enum": groups.offered(group)} for group in groups.names()}
    inherited = {"enum": [*recipes.names(), inheritance.SELF], "description": "A recipe that is inherited."}
    choice = {**mapping(choices, "One option of a group."), "minProperties": 1, "maxProperties": 1}
    return {
        "type": "array",
        "description": f"What the recipe inherits, and what it chooses. {inheritance.FORM}",
        "items": {"anyOf": [inherited, FILE, choice]},
    }


@cache
def _methods(group: str) -> list[str]:
    return [NOTHING[group], *options.methods(group)]


def _definitions() -> dict[str, Schema]:
    """What each choice makes of the keys it decides."""
    found = {f"task.{name}": _of_task(cls) for name, cls in tasks().items()}
    found["task.any"] = {"properties": {group: PLAIN for group in (groups.TASK, "trainer")}}
    for group in groups.METHODS:
        for name in _methods(group):
            found[f"{group}.{name}"] = {"properties": {group: properties.method(group, name, Task)}}
        found[f"{group}.any"] = {"properties": {group: PLAIN}}
    return found


def _of_task(cls: type[Task]) -> Schema:
    dataset = {"properties": {"columns": properties.columns(cls)}}
    trainer = properties.theirs("trainer", cls.arguments_class, cls)
    return {"properties": {groups.TASK: properties.ours(cls), "trainer": trainer, "dataset": dataset}}


def _narrowed(group: str, cases: list[Case]) -> Schema:
    """The first case that holds; where none does, what the shipped defaults choose."""
    schema = _choice(group, _method_of(group, _shipped_default(group)))
    for condition, then in reversed(cases):
        schema = {"if": condition, "then": then, "else": schema}
    return schema


def _choice(group: str, name: str) -> Schema:
    return {"$ref": f"#/definitions/{group}.{name}"}


def _cases(group: str) -> list[Case]:
    """A key of the recipe's own, its own choice, that of a file it inherits, that of a shipped recipe it inherits."""
    key = "name" if group == groups.TASK else "method"
    known = list(tasks()) if group == groups.TASK else _methods(group)
    named = [(_sets(group, key, name), _choice(group, name)) for name in known]
    chosen = [
        (_overrides(group, option), _choice(group, _method_of(group, option))) for option in groups.offered(group)
    ]
    brought = [(_overrides(by, option), _choice(group, name)) for by, option, name in _brought(group)]
    unknown = [(_contains(FILE), _choice(group, "any"))]
    return [*named, *chosen, *brought, *unknown, *_inherited(group)]


def _sets(group: str, key: str, name: str) -> Schema:
    inner = {"type": "object", "required": [key], "properties": {key: {"const": name}}}
    return {"required": [group], "properties": {group: inner}}


def _overrides(group: str, option: str) -> Schema:
    key = f"override /{group}"
    return _contains({"type": "object", "required": [key], "properties": {key: {"const": option}}})


def _contains(item: Schema) -> Schema:
    return {"required": ["defaults"], "properties": {"defaults": {"type": "array", "contains": item}}}


def _inherited(group: str) -> list[Case]:
    """The shipped recipes that choose something else than the default, by what they choose."""
    by_method: dict[str, list[str]] = {}
    for name in recipes.names():
        by_method.setdefault(_method_in(group, inheritance.read(name).choices), []).append(name)
    return [(_contains({"enum": heirs}), _choice(group, method)) for method, heirs in by_method.items()]


def _method_in(group: str, choices: dict[str, str]) -> str:
    """The method or task that a recipe's choices lead to."""
    brought = {(by, option): name for by, option, name in _brought(group)}
    through = next((brought[pair] for pair in choices.items() if pair in brought), None)
    own = choices.get(group)
    return _method_of(group, own) if own else through or _method_of(group, _shipped_default(group))


@cache
def _brought(group: str) -> list[tuple[str, str, str]]:
    """The options of other groups whose files choose from this group: group, option, and the method they bring."""
    found = []
    for by, names in recipes.groups().items():
        for option in names:
            for entry in _entries(by, option):
                ((written, chosen),) = entry.items() if isinstance(entry, dict) else (("", ""),)
                if re.fullmatch(rf"override /{group}@_global_\.{group}", written):
                    found.append((by, option, _method_of(group, chosen)))
    return found


def _entries(group: str, option: str) -> list[Any]:
    entries: list[Any] = origin.values(recipes.CONF / group / f"{option}.yaml").get("defaults", [])
    return entries


@cache
def _method_of(group: str, option: str) -> str:
    """The method behind an option of a group: a library's own name, or what the option's file says or inherits."""
    if option not in recipes.groups().get(group, []):
        return option
    own = origin.values(recipes.CONF / group / f"{option}.yaml").get("method")
    return str(own) if own else _method_of(group, next(e for e in _entries(group, option) if isinstance(e, str)))


@cache
def _shipped_default(group: str) -> str:
    """The option of a group in the base config."""
    entries = origin.values(recipes.CONF / "config.yaml")["defaults"]
    return next(str(entry[group]) for entry in entries if isinstance(entry, dict) and group in entry)


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
            found["properties"] |= properties.theirs(name, cls.arguments_class, Task)["properties"]
    else:
        found = properties.ours(properties.hints(Config)[name])
    found["properties"] = {"defaults": defaults} | found["properties"]
    return found


def _method_file(name: str, defaults: Schema) -> Schema:
    """The file of a method names it, or inherits a file that does."""
    schema: Schema = {"required": ["method"]}
    inherits = [(_contains({"const": option}), _method_of(name, option)) for option in recipes.groups()[name]]
    named = [({"required": ["method"], "properties": {"method": {"const": each}}}, each) for each in _methods(name)]
    for condition, method in reversed([*named, *inherits]):
        keys = properties.method(name, method, Task)
        keys["properties"] = {"defaults": defaults} | keys["properties"]
        schema = {"if": condition, "then": keys, "else": schema}
    return {"type": "object", "properties": {"method": {"enum": _methods(name)}}, **schema}


def text(name: str) -> str:
    """A schema as it is printed.

    Raises:
        UserError: there is no such group.
    """
    return json.dumps(of(name), indent=1) + "\n"
