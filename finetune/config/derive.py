"""The parameters of a library's class or function: types as JSON Schema, help, defaults.

Reads what is imported; knows no cache and no option by name.
"""

import contextlib
import dataclasses
import inspect
import sys
import typing
import warnings
from collections.abc import Callable, Iterator
from enum import Enum
from types import SimpleNamespace
from typing import Any


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One named parameter."""

    name: str
    schema: dict[str, Any]
    help: str
    default: Any
    """None where there is none, or where it is not plain."""


def parameters(target: Callable[..., Any]) -> Iterator[Parameter]:
    """Every named parameter: some of the libraries' dataclasses write an `__init__` of their own."""
    hints = _hints(target)
    fields = {field.name: field for field in dataclasses.fields(target)} if dataclasses.is_dataclass(target) else {}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            help_text = str(fields[name].metadata.get("help", "")) if name in fields else ""
            schema = _schema(hints.get(name) or _type_of(parameter.default))
            yield Parameter(name, schema, help_text, _plain(parameter.default))


def _plain(default: Any) -> Any:
    """A default as YAML would write it."""
    default = default.value if isinstance(default, Enum) else default
    return default if isinstance(default, str | int | float | bool) else None


def _type_of(default: Any) -> Any:
    """What a parameter without a type takes, where its default leaves no doubt."""
    return type(default) if isinstance(default, bool | float | str) else Any


def _hints(target: Any) -> dict[str, Any]:
    """The types of the parameters, each read where it was written: a dataclass and its bases live in modules apart."""
    owners = [*reversed(target.__mro__), inspect.getattr_static(target, "__init__")] if _is_class(target) else [target]
    found: dict[str, Any] = {}
    for owner in owners:
        names = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
        for name, hint in getattr(owner, "__annotations__", {}).items():
            # A name that is imported for type checkers only stays unknown, unless a base could read it.
            with contextlib.suppress(NameError, TypeError, AttributeError):
                found[name] = typing.get_type_hints(SimpleNamespace(__annotations__={name: hint}), names)[name]
    return found


def _is_class(target: Any) -> bool:
    return isinstance(target, type)


def _schema(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a type; `{}`, which accepts anything, where pydantic knows none."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schema = TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError, AttributeError, TypeError):
        return {}
    return _closed(_choices_win(schema))


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A nested dataclass takes its own fields and no others."""
    for definition in schema.get("$defs", {}).values():
        if definition.get("type") == "object" and "properties" in definition:
            definition.setdefault("additionalProperties", False)
    return schema


def _choices_win(schema: dict[str, Any]) -> dict[str, Any]:
    """`Enum | str` means the enum: the libraries write `| str` for its values, which would admit any word."""
    branches = schema.get("anyOf", [])
    definitions = schema.get("$defs", {})
    resolved = [definitions.get(str(branch.get("$ref", "")).rpartition("/")[2], branch) for branch in branches]
    words = [str(word) for branch in resolved for word in branch.get("enum", [])]
    # PEFT writes a pattern as one of the words: `pissa_niter_[number of iters]`.
    if words and not any("[" in word for word in words):
        schema["anyOf"] = [branch for branch in branches if branch.get("type") != "string" or "enum" in branch]
    elif words:
        schema["anyOf"] = [*branches, {"type": "string"}]
    return schema
