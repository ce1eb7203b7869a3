"""JSON Schema of the keys of one group: ours from their dataclasses, the libraries' from the installed versions.

Draft 07, which editors read best. Knows what a key takes; knows nothing of files and of what chooses a group's option.
"""

import inspect
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from finetune.config import options
from finetune.config.docs import field_docs
from finetune.config.places import RENAMED, Chosen
from finetune.config.task import Task
from finetune.config.theirs import NOTHING

Schema = dict[str, Any]

INTERPOLATION: Schema = {"type": "string", "pattern": r"\$\{.+\}", "doNotSuggest": True}


def mapping(properties: dict[str, Schema], description: str = "") -> Schema:
    """A closed mapping."""
    said = {"description": description} if description else {}
    return {"type": "object", **said, "properties": properties, "additionalProperties": False}


def ours(cls: Any) -> Schema:
    """The mapping of one of our dataclasses; nothing is required, because the command line may set it."""
    said = field_docs(cls)
    return mapping({name: _field(cls, name, said.get(name, "")) for name in hints(cls)}, doc(cls))


def hints(cls: Any) -> dict[str, Any]:
    """The fields of a dataclass with their types."""
    known = get_type_hints(cls, include_extras=True)
    return {field.name: known[field.name] for field in fields(cls)}


def doc(cls: Any) -> str:
    """The docstring of a class."""
    return inspect.cleandoc(cls.__doc__ or "")


def _field(cls: Any, name: str, description: str) -> Schema:
    hint = hints(cls)[name]
    if is_dataclass(hint):
        return ours(hint)
    default = next(field.default for field in fields(cls) if field.name == name)
    shown = {} if default is MISSING or default is None else {"default": default}
    return value(TypeAdapter(hint).json_schema(), description) | shown


def value(schema: Schema, description: str = "") -> Schema:
    """What a key takes, or a reference to another key in its place."""
    whole = _plain(schema, schema.get("$defs", {}))
    said = {"description": description} if description else {}
    if not whole or (whole.keys() == {"type"} and whole["type"] == "string"):
        return {**whole, **said}
    branches = whole["anyOf"] if whole.keys() == {"anyOf"} else [whole]
    if not any(branch == {"type": "string"} for branch in branches):
        branches = [*branches, INTERPOLATION]
    return {"anyOf": branches, **said}


def _plain(node: Any, definitions: dict[str, Schema]) -> Any:
    """A schema with its definitions written out, and without the titles that pydantic makes of names."""
    if isinstance(node, list):
        return [_plain(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if reference := node.get("$ref"):
        return _plain(definitions[str(reference).rpartition("/")[2]], definitions)
    kept = {key: part for key, part in node.items() if key not in ("$defs", "title", "default", "description")}
    if "prefixItems" in kept:  # draft 07 has another word
        kept["items"] = kept.pop("prefixItems")
    if isinstance(kept.get("properties"), dict):
        own = {key: _plain(part, definitions) for key, part in kept.pop("properties").items()}
        return {**_plain(kept, definitions), "properties": own}
    return {key: _plain(part, definitions) for key, part in kept.items()}


def instead(text: str) -> Schema:
    """A key that is refused, and what is written instead; an editor shows the text and does not offer the key."""
    return {"not": {}, "deprecationMessage": f"Write {text}.", "description": f"Write {text}.", "doNotSuggest": True}


def theirs(group: str, path: str | None, task: type[Task]) -> Schema:
    """The mapping of a library's class in a group; of a method that uses nothing, without a path."""
    chosen = Chosen(task, {group: path} if path else {})
    accepted = {name: value(option.schema, option.help) for name, option in chosen.accepted(group).items()}
    refused = {name: instead(text) for name, text in {**_renamed(group), **chosen.owned(group)}.items()}
    return mapping(refused | accepted, f"The options of {path}." if path else "")


def _renamed(group: str) -> dict[str, str]:
    return RENAMED if group == "trainer" else {}


def method(group: str, name: str, task: type[Task]) -> Schema:
    """The mapping of a method of PEFT or of a quantizer of transformers."""
    path = None if name == NOTHING[group] else options.methods(group)[name]
    found = theirs(group, path, task)
    found["properties"] = {"method": {"const": name, "description": "The method's name in the library."}} | found[
        "properties"
    ]
    return found


def columns(task: type[Task]) -> Schema:
    """What `dataset.columns` may name for a task."""
    return (
        mapping({role: value({"type": "string"}) for role in task.roles}, "Role to column name.") if task.roles else {}
    )
