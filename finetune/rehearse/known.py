"""What is known without the Hub: types of models, families of tokenizers, rows like those of data sets.

Reads `recipes/offline.yaml`. Knows no library and no config of a run.
"""

import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from finetune.config.recipes import OFFLINE

TRL = "trl://"
USUAL_FAMILY = "chatml"
ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")


@dataclass(frozen=True)
class Family:
    """The special tokens and the chat template that tokenizers of one kind have."""

    name: str
    special: dict[str, str]
    """Role to token: bos, eos, pad, unk, cls, sep, mask."""
    tokens: list[str] = field(default_factory=list)
    """Special tokens of the template that have no role."""
    template: str | None = None
    begins: bool = False
    """Whether every text begins with the token of the role bos."""
    ends: bool = False
    """Whether every text ends with the token of the role eos."""
    tokenizer: str | None = None
    """A class of transformers, where it does more than its special tokens say."""


@cache
def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = yaml.safe_load(OFFLINE.read_text(encoding="utf-8"))
    return table


def model(path: str | None) -> dict[str, Any] | None:
    """`model_type`, `family` and values of the config of a Hub id; None for one that is not in the table."""
    return _table()["models"].get(path or "")


def family(name: str | None, model_type: str) -> Family:
    """The family of that name, else the one that models of the type belong to."""
    name = name or _table()["types"].get(model_type, USUAL_FAMILY)
    values = dict(_table()["families"][name])
    special = {role: values.pop(role) for role in ROLES if role in values}
    values["template"] = _template(values.get("template"))
    return Family(name, special, **values)


def _template(text: str | None) -> str | None:
    """A template as written, or TRL's of that name, which are copies of the published ones."""
    if text is None or not text.startswith(TRL):
        return text
    spec = importlib.util.find_spec("trl")
    assert spec
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "chat_templates"
    return (folder / f"{text.removeprefix(TRL)}.jinja").read_text(encoding="utf-8")


def rows(path: str) -> list[dict[str, Any]] | None:
    """A few rows like those of a data set on the Hub; None for one that is not in the table."""
    return _table()["datasets"].get(path)
