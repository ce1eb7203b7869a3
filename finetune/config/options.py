"""The libraries' own options, read from the installed versions: names, types, choices, help.

Deriving them imports the libraries (seconds), so the result is kept on disk under a key of their versions: safe to
delete, never stale. With a warm cache this module loads no torch.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import typing
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FORMAT = 2
LIBRARIES = ("transformers", "trl", "peft", "accelerate", "torch", "pydantic")
REPLACED = {
    "warmup_ratio": "warmup_steps (below 1 it is a share of all steps)",
    "evaluation_strategy": "eval_strategy",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "group_by_length": "train_sampling_strategy=group_by_length",
    "max_seq_length": "tokenizer.max_length",
    "no_cuda": "use_cpu",
    "tokenizer": "the tokenizer group",
    "logging_dir": "the environment variable TENSORBOARD_LOGGING_DIR",
    "overwrite_output_dir": "nothing: every run has a folder of its own",
    "load_in_4bit": "quantization=bnb_4bit",
    "load_in_8bit": "quantization=bnb_8bit",
}
"""Names people still type, and what replaced them in transformers 5 and TRL 1."""


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
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _keep(file, derive())


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
            yield name, Option(_schema(hints.get(name, Any)), help_text)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__) | typing.get_type_hints(cls)
    except (NameError, TypeError):  # an annotation names something that is not imported at run time
        return {}


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
    if any("enum" in branch for branch in resolved):
        schema["anyOf"] = [branch for branch in branches if branch.get("type") != "string"]
    return schema
