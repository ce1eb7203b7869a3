"""The libraries' own options, read from the installed versions: names, types, choices, help.

Deriving them imports the libraries (seconds), so the result is kept on disk under a key of their versions: safe to
delete, never stale. With a warm cache this module loads no torch.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import sys
import typing
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FORMAT = 5
LIBRARIES = ("transformers", "trl", "peft", "accelerate", "torch", "pydantic")


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a library: its JSON Schema and the library's own help text."""

    schema: dict[str, Any]
    help: str = ""


def cache_folder() -> Path:
    """Where everything that can be made again is kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "finetune"


@cache
def of(class_path: str) -> dict[str, Option]:
    """The options of a library class, such as `trl.SFTConfig`, by name."""
    stored = _cached(class_path, lambda: {name: vars(option) for name, option in _derive(class_path)})
    return {name: Option(**option) for name, option in stored.items()}


@cache
def methods(group: str) -> dict[str, str]:
    """The methods a library knows for `adapter` or `quantization`: name to the path of its config class."""
    return _cached(f"methods-{group}", {"adapter": _peft_methods, "quantization": _quantizers}[group])


def resolve(path: str) -> Any:
    """The object a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _cached(name: str, derive: typing.Callable[[], dict[str, Any]]) -> dict[str, Any]:
    file = cache_folder() / "options" / f"{name}-{_installed()}.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    return found if _is_whole(found) else _keep(file, derive())


def _is_whole(found: Any) -> bool:
    """Whether a cache file holds what was stored: options, or methods with the paths of their classes."""
    return isinstance(found, dict) and all(
        isinstance(value, str) or (isinstance(value, dict) and value.keys() == {"schema", "help"})
        for value in found.values()
    )


def _keep(file: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Store what was derived; a cache that cannot be written costs time, not the run."""
    staged = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(json.dumps(found), encoding="utf-8")
        staged.replace(file)
    except OSError:
        pass
    return found


@cache
def _installed() -> str:
    def of_library(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"

    versions = [str(FORMAT), *map(of_library, LIBRARIES)]
    return hashlib.sha256(" ".join(versions).encode()).hexdigest()[:16]


def _peft_methods() -> dict[str, str]:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    return {kind.value.lower(): _path(config) for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _quantizers() -> dict[str, str]:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    return {name: _path(config) for name, config in AUTO_QUANTIZATION_CONFIG_MAPPING.items()}


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _derive(class_path: str) -> Iterator[tuple[str, Option]]:
    """Every named parameter: some of the libraries' dataclasses write an `__init__` of their own."""
    cls = resolve(class_path)
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            help_text = str(fields[name].metadata.get("help", "")) if name in fields else ""
            yield name, Option(_schema(hints.get(name) or _type_of(parameter.default)), help_text)


def _type_of(default: Any) -> Any:
    """What a parameter without a type takes, where its default leaves no doubt."""
    return type(default) if isinstance(default, bool | float | str) else Any


def _hints(cls: type) -> dict[str, Any]:
    """The types of the parameters, each read where it was written: a dataclass and its bases live in modules apart."""
    found: dict[str, Any] = {}
    for owner in (*reversed(cls.__mro__), inspect.getattr_static(cls, "__init__")):
        names = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
        for name, hint in getattr(owner, "__annotations__", {}).items():
            # A name that is imported for type checkers only stays unknown, unless a base could read it.
            with contextlib.suppress(NameError, TypeError, AttributeError):
                found[name] = typing.get_type_hints(SimpleNamespace(__annotations__={name: hint}), names)[name]
    return found


def _schema(hint: Any) -> dict[str, Any]:
    """The JSON Schema of a type; `{}`, which accepts anything, where pydantic knows none."""
    import warnings

    from pydantic import TypeAdapter
    from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schema = TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError, AttributeError, TypeError):
        return {}
    return _choices_win(schema)


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
