"""Which task or method a recipe leads to, as conditions of its JSON Schema.

A recipe chooses by a key of its own, by an entry of its `defaults`, or by what it inherits. What a file of the user's
own chooses is not known here, and leaves everything open. Knows no key of any method.
"""

import re
from functools import cache
from typing import Any

from finetune.config import groups, inheritance, options, origin, recipes
from finetune.config.installed import tasks
from finetune.config.properties import Schema
from finetune.config.theirs import NOTHING

FILE: Schema = {"type": "string", "pattern": r"\.ya?ml$"}
Case = tuple[Schema, Schema]
"""A condition, and what holds where it is met."""


@cache
def methods(group: str) -> list[str]:
    """Every method of a group, and the one that uses nothing."""
    return [NOTHING[group], *options.methods(group)]


def narrowed(group: str) -> Schema:
    """What a recipe's own keys and its `defaults` make of a group; where they say nothing, the shipped defaults do."""
    schema = _choice(group, method_of(group, _shipped_default(group)))
    for condition, then in reversed(_cases(group)):
        schema = {"if": condition, "then": then, "else": schema}
    return schema


def _choice(group: str, name: str) -> Schema:
    return {"$ref": f"#/definitions/{group}.{name}"}


def _cases(group: str) -> list[Case]:
    """A key of the recipe's own, its own choice, that of a file it inherits, that of a shipped recipe it inherits."""
    key = "name" if group == groups.TASK else "method"
    known = list(tasks()) if group == groups.TASK else methods(group)
    named = [(_sets(group, key, name), _choice(group, name)) for name in known]
    chosen = [
        (_overrides(group, option), _choice(group, method_of(group, option))) for option in groups.offered(group)
    ]
    brought = [(_overrides(by, option), _choice(group, name)) for by, option, name in _brought(group)]
    unknown = [(contains(FILE), _choice(group, "any"))]
    return [*named, *chosen, *brought, *unknown, *_inherited(group)]


def _sets(group: str, key: str, name: str) -> Schema:
    inner = {"type": "object", "required": [key], "properties": {key: {"const": name}}}
    return {"required": [group], "properties": {group: inner}}


def _overrides(group: str, option: str) -> Schema:
    key = f"override /{group}"
    return contains({"type": "object", "required": [key], "properties": {key: {"const": option}}})


def contains(item: Schema) -> Schema:
    """The condition that `defaults` hold an entry."""
    return {"required": ["defaults"], "properties": {"defaults": {"type": "array", "contains": item}}}


def _inherited(group: str) -> list[Case]:
    """The shipped recipes that choose something else than the default, by what they choose."""
    by_method: dict[str, list[str]] = {}
    for name in recipes.names():
        by_method.setdefault(_method_in(group, inheritance.read(name).choices), []).append(name)
    return [(contains({"enum": heirs}), _choice(group, method)) for method, heirs in by_method.items()]


def _method_in(group: str, choices: dict[str, str]) -> str:
    """The method or task that a recipe's choices lead to."""
    brought = {(by, option): name for by, option, name in _brought(group)}
    through = next((brought[pair] for pair in choices.items() if pair in brought), None)
    own = choices.get(group)
    return method_of(group, own) if own else through or method_of(group, _shipped_default(group))


@cache
def _brought(group: str) -> list[tuple[str, str, str]]:
    """The options of other groups whose files choose from this group: group, option, and the method they bring."""
    found = []
    for by, names in recipes.groups().items():
        for option in names:
            for entry in _entries(by, option):
                ((written, chosen),) = entry.items() if isinstance(entry, dict) else (("", ""),)
                if re.fullmatch(rf"override /{group}@_global_\.{group}", written):
                    found.append((by, option, method_of(group, chosen)))
    return found


def _entries(group: str, option: str) -> list[Any]:
    entries: list[Any] = origin.values(recipes.CONF / group / f"{option}.yaml").get("defaults", [])
    return entries


@cache
def method_of(group: str, option: str) -> str:
    """The method behind an option of a group: a library's own name, or what the option's file says or inherits."""
    if option not in recipes.groups().get(group, []):
        return option
    own = origin.values(recipes.CONF / group / f"{option}.yaml").get("method")
    return str(own) if own else method_of(group, next(e for e in _entries(group, option) if isinstance(e, str)))


@cache
def _shipped_default(group: str) -> str:
    """The option of a group in the base config."""
    entries = origin.values(recipes.CONF / "config.yaml")["defaults"]
    return next(str(entry[group]) for entry in entries if isinstance(entry, dict) and group in entry)
