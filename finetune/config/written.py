"""What a user wrote, as a message repeats it: short, and never a secret."""

import json
import re
import shlex
from typing import Any

SECRET_KEY = re.compile(r"(^|[._])(hub_token|auth_token|token|password|secret|api_?key)$", re.IGNORECASE)
SECRET_VALUE = re.compile(r"\b(hf|sk|ghp)_?[A-Za-z0-9-]{8,}")


def is_secret(key: str, value: Any) -> bool:
    """Whether a value could be a credential, by its key or by its looks."""
    return bool(SECRET_KEY.search(key) or SECRET_VALUE.search(str(value)))


def short(key: str, value: Any) -> str:
    """A value in at most 60 characters."""
    if is_secret(key, value):
        return "a secret"
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def override(text: str) -> str:
    """An override as it was typed."""
    key, equals, value = text.partition("=")
    return f"{key}=…" if equals and is_secret(key, value) else text


def quoted(text: str) -> str:
    """An override whose value is text, whatever is in it, as it is typed into a shell."""
    key, _, value = text.partition("=")
    # Hydra unescapes a backslash only where a quote follows it.
    escaped = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + (match[2] and '\\"'), value)
    return shlex.quote(f'{key}="{escaped}"')
