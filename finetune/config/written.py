"""What a user wrote, as a message repeats it: short, and never a secret."""

import json
import re
import shlex
from typing import Any

SECRET_KEY = re.compile(
    r"(^|[._-])((hub|hf|auth|access|api|bearer|refresh|github|secret)[_-]?token|token|password|passwd|pwd|secret"
    r"|credentials?|(api|access|private|secret)[_-]?key|secret[_-]access[_-]key)$",
    re.IGNORECASE,
)
NO_SECRET = re.compile(r"(^|[._])(pad|eos|bos|unk|sep|cls|mask|image|video|audio)_token$")
"""Tokens that are words of a vocabulary."""
SECRET_VALUE = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{12,}"  # Hugging Face
    r"|sk-(?=[\w-]*\d)[A-Za-z0-9_-]{16,}"  # OpenAI, Anthropic
    r"|gh[opsur]_[A-Za-z0-9]{12,}|github_pat_\w{20,}|glpat-[\w-]{16,}"  # GitHub, GitLab
    r"|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{35}"  # AWS, Google
    r"|xox[abeprs]-[\w-]{10,}|npm_[A-Za-z0-9]{30,}|pypi-AgEI[\w-]{16,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{4,}\.[\w-]+"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*"
    r"|[a-z][a-z0-9+.-]*://[^\s/:@]*:[^\s/@]+@"  # a password in an address
    r")"
)
LENGTH, KEY, COMMAS, DIGITS, DEPTH = 2**16, 200, 500, 400, 50
"""The most of an override: characters, those of its key, commas, digits, brackets. Hydra reads a list in the square of
its length."""
QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")


def is_secret(key: str, value: Any) -> bool:
    """Whether a value could be a credential, by its key or by its looks."""
    by_key = isinstance(value, str) and SECRET_KEY.search(key) and not NO_SECRET.search(key)
    return bool(by_key) or looks_secret(str(value))


def looks_secret(text: str) -> bool:
    """Whether a text holds what a known service gives out as a credential."""
    return bool(SECRET_VALUE.search(text))


def printable(text: str) -> str:
    """A message with its credentials left out, and what a terminal would obey written out."""
    masked = SECRET_VALUE.sub("…", text)
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in masked)


def short(key: str, value: Any) -> str:
    """A value in at most 60 characters."""
    if is_secret(key, value):
        return "a secret"
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def override(text: str) -> str:
    """An override as it was typed, where it is short."""
    key, equals, value = text.partition("=")
    if equals and is_secret(key, value):
        return f"{key}=…"
    return text if len(text) <= 200 else f"{text[:197]}…"


def key_of(text: str) -> str:
    """The key of an override, however long the text is."""
    return override(text.partition("=")[0])


def oversized(text: str) -> str:
    """Why an override costs too much to read; empty where it does not."""
    if len(text) > LENGTH:
        return f"it is longer than {LENGTH // 2**10} KiB"
    key, bare = text.partition("=")[0], QUOTED.sub("", text)
    if len(key) > KEY or key.count(".") > DEPTH:
        return f"its key is longer than {KEY} characters or {DEPTH} names"
    if bare.count(",") > COMMAS:
        return f"it lists more than {COMMAS} values"
    if re.search(rf"\d{{{DIGITS}}}", bare):
        return f"it holds a number of more than {DIGITS} digits"
    return f"it is nested more than {DEPTH} deep" if _depth(bare) > DEPTH else ""


def _depth(text: str) -> int:
    deepest = depth = 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        deepest = max(deepest, depth)
    return deepest


def quoted(text: str) -> str:
    """An override whose value is text, whatever is in it, as it is typed into a shell."""
    return shlex.quote(literal(text))


def literal(text: str) -> str:
    """An override whose value is text, whatever is in it."""
    key, _, value = text.partition("=")
    # Hydra unescapes a backslash only where a quote follows it.
    escaped = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + (match[2] and '\\"'), value)
    return f'{key}="{escaped}"'
