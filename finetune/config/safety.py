"""What no config may hold, whoever wrote it and wherever it stands, and what no override may cost to read.

A credential, a path that climbs out of the place it names, a number that no machine holds, a character that a terminal
obeys. Knows nothing of what a key means.
"""

import math
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from finetune.config import written
from finetune.config.compose import Composed
from finetune.config.origin import nearest_origin
from finetune.errors import Problem

PLACES = ("package://", "recipes://")
DIRECTION = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction of writing: what is shown is not what is read (CVE-2021-42574)."""
INSTEAD = "Credentials come from the environment (HF_TOKEN, WANDB_API_KEY); one that was in a file is best revoked."

Finding = tuple[str, str]
"""What is wrong, and what to do."""


def problems(composed: Composed) -> Iterator[Problem]:
    """Everything in a composed config that is refused whatever its key takes."""
    for key, value in _leaves(composed.values, ""):
        if finding := _wrong(key, value):
            yield Problem(key, nearest_origin(key, composed.origins), *finding)


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every key with its value, the words of keys themselves included."""
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            below = f"{key}.{name}" if key else str(name)
            yield from ((below, each) for each in [name] if isinstance(each, str) and _looks_wrong(each))
            yield from _leaves(value, below)
    else:
        yield key, node


def _wrong(key: str, value: Any) -> Finding | None:
    if isinstance(value, int | float):
        return _number(value)
    return _text(key, value) if isinstance(value, str) else None


def _number(value: float) -> Finding | None:
    if isinstance(value, int):
        wide = value.bit_length() > 63
        return (f"wrote a number of {value.bit_length()} bits.", "No key takes one of more than 63.") if wide else None
    if not math.isfinite(value):
        return f"wrote {value}, expected a finite number.", "Write one, or leave the key out for its default."
    return None


def _text(key: str, value: str) -> Finding | None:
    if written.is_secret(key, value):
        return "holds a credential, which would reach files and logs.", INSTEAD
    if found := _looks_wrong(value):
        return found
    if value.startswith(PLACES) and ".." in re.split(r"[/\\]", value):
        return f"wrote {written.short(key, value)}, which leads out of what it names.", "Write it without `..`"
    if key.startswith("dataset.data_files") and ".." in re.split(r"[/\\]", value):
        return (
            f"wrote {written.short(key, value)}, which leads out of dataset.path.",
            "Name the folder above in dataset.path.",
        )
    return None


def _looks_wrong(text: str) -> Finding | None:
    if written.looks_secret(text):
        return "holds a credential, which would reach files and logs.", INSTEAD
    odd = next((letter for letter in text if _is_odd(letter)), None)
    if odd is None:
        return None
    return f"holds the character U+{ord(odd):04X}, which is not text.", "Take it out."


def _is_odd(letter: str) -> bool:
    """A control character besides tabs and ends of lines, half a character, or one that turns the line around."""
    return letter not in "\t\n\r" and (unicodedata.category(letter) in ("Cc", "Cs") or letter in DIRECTION)
