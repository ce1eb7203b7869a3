"""The libraries' own options, read from the installed versions: names, types, limits, choices, defaults, help.

Deriving them imports the libraries (seconds), so the result is cached. With a warm cache this module loads no torch.
"""

import dataclasses
import importlib
from functools import cache
from typing import Any

from finetune.config.bounds import bounded
from finetune.config.cache import kept
from finetune.errors import MissingExtra

EXTRAS = {"sentence_transformers": "embeddings"}
"""Library to the extra that brings it."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a library: its JSON Schema, the library's own help text, and its default where that is plain."""

    schema: dict[str, Any]
    help: str = ""
    default: Any = None


FIELDS = {field.name for field in dataclasses.fields(Option)}


@cache
def of(class_path: str) -> dict[str, Option]:
    """The options of a library class or function, such as `trl.SFTConfig`, by name."""
    return stored(class_path, lambda: _derived(class_path))


def stored(name: str, derive: Any) -> dict[str, Option]:
    """Options by name, from the cache or derived."""
    found = kept(name, lambda: {key: vars(option) for key, option in derive().items()}, _are_options)
    return {key: Option(**option) for key, option in found.items()}


@cache
def methods(group: str) -> dict[str, str]:
    """The methods a library knows for `adapter` or `quantization`: name to the path of its config class."""
    found: dict[str, str] = kept(f"methods-{group}", METHODS[group], _are_paths)
    return found


def resolve(path: str) -> Any:
    """The object a dotted path names.

    Raises:
        MissingExtra: its library is one of an extra, and is not installed.
    """
    module, _, name = path.rpartition(".")
    library = path.partition(".")[0]
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != library or library not in EXTRAS:
            raise
        raise MissingExtra(library, EXTRAS[library]) from None


def _are_options(found: Any) -> bool:
    return isinstance(found, dict) and all(
        isinstance(value, dict) and value.keys() == FIELDS for value in found.values()
    )


def _are_paths(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(value, str) for value in found.values())


def _derived(class_path: str) -> dict[str, Option]:
    from finetune.config.derive import parameters

    return {
        each.name: Option(bounded(each.name, each.schema), each.help, each.default)
        for each in parameters(resolve(class_path))
    }


def _peft_methods() -> dict[str, str]:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    return {kind.value.lower(): _path(config) for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _quantizers() -> dict[str, str]:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    return {name: _path(config) for name, config in AUTO_QUANTIZATION_CONFIG_MAPPING.items()}


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


METHODS = {"adapter": _peft_methods, "quantization": _quantizers}
