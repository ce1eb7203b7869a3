"""What Hydra and OmegaConf say when overrides cannot be laid over a config, in our words.

Knows their messages, and imports neither: the override at fault is found by its text.
"""

import re
from collections.abc import Iterable

from finetune.config import written
from finetune.config.origin import COMMAND_LINE
from finetune.errors import Problem

CAUSES = {
    "ConfigIndexError": ("the list has no such place.", "Write the whole list: {key}=[…]"),
    "KeyValidationError": ("a mapping in it has a key that is no text.", "Put the key in quotes."),
    "GrammarParseError": ("a reference in it is malformed.", "Write ${{dataset.path}}, or \\${{ for the two letters."),
    "RecursionError": ("it refers to itself.", ""),
}
"""The error behind a failed override, by the name of its class: what is wrong, and what to write."""
KINDS = {"DictConfig": "a mapping", "ListConfig": "a list"}


def explain(error: BaseException, words: Iterable[str]) -> Problem:
    """The problem behind an error of Hydra or OmegaConf.

    Args:
        words: the overrides that were composed, as they were typed.
    """
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return _deleted(text) or _merged(text, error) or _indexed(text, words) or _other(text, error)


def _deleted(text: str) -> Problem | None:
    """An override `~KEY` or `~KEY=VALUE` that takes nothing out."""
    if match := re.search(r"Could not delete from config. '(.+)' does not exist", text):
        return Problem(f"~{match[1]}", COMMAND_LINE, "there is no such key to take out.")
    if match := re.search(r"Could not delete from config. The value of '(.+?)' is ", text):
        return Problem(f"~{match[1]}", COMMAND_LINE, "the key has another value.", f"Write ~{match[1]}")
    if match := re.search(r"Could not delete '(.+?)(?:=.*)?'. No match in the defaults list", text):
        what = "the group has another option, and a choice is replaced, not taken out."
        return Problem(f"~{match[1]}", COMMAND_LINE, what, f"Write {match[1]}=OPTION")
    return None


def _merged(text: str, error: BaseException) -> Problem | None:
    """An override whose value does not fit where it is put."""
    match = re.search(r"Error merging override \+*([^=]+)=", text)
    if not match:
        return None
    key, cause = match[1], error.__cause__
    if kinds := re.search(r"Cannot merge (\w+) with (\w+)", str(cause)):
        one, other = (KINDS.get(kind, kind) for kind in kinds.groups())
        return Problem(key, COMMAND_LINE, f"wrote {one}, where {other} stands.", f"Write {other} as a whole.")
    what, hint = CAUSES.get(type(cause).__name__, ("does not fit where it is put.", ""))
    return Problem(key, COMMAND_LINE, what, hint.format(key=key.rpartition(".")[0] or key))


def _indexed(text: str, words: Iterable[str]) -> Problem | None:
    """A word where the number of a list's item belongs."""
    match = re.search(r"invalid literal for int\(\) with base 10: '(.*)'", text)
    keys = [word.partition("=")[0].lstrip("~+") for word in words] if match else []
    key = next((key for key in keys if match and match[1] in key.split(".")[1:]), None)
    if match is None or key is None:
        return None
    above = key[: key.index(f".{match[1]}")]
    return Problem(key, COMMAND_LINE, f"{above} is a list, which has no keys.", f"Write {above}=[…]")


def _other(text: str, error: BaseException) -> Problem:
    found = re.search(r"full_key: (\S+)", str(error))
    what, hint = CAUSES.get(type(error).__name__, (f"cannot be composed: {written.printable(text)[:200]}.", ""))
    return Problem(found[1] if found else "overrides", COMMAND_LINE, what, hint)
