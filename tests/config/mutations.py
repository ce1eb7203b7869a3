"""Every shipped file with one thing wrong in it: a letter of a key, or the type of a value."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from finetune.config import groups, inheritance, origin, recipes
from finetune.config.check import check
from finetune.config.compose import Composed, compose
from finetune.config.suggest import distance
from finetune.errors import ConfigError, Problem

PLANNED = ("model.config.", "task.loss_options.")
"""What the plan alone knows, from a model's config or a loss: test_model.py, test_embedding_and_reranking.py."""
FREE = ("dataset.data_files.", *PLANNED)
"""Keys whose names are the user's own, or the plan's to check."""
PATHS = ("model.path=m", "dataset.path=d")
NEEDED = {
    "launch=kubernetes": ("launch.container_image=a", "launch.volume=a:/b"),
    "launch=skypilot": ("launch.container_image=a",),
    "publish=hub": ("publish.repo_id=me/x",),
    "quantization=bnb_4bit": ("adapter=lora",),
    "quantization=bnb_8bit": ("adapter=lora",),
}
"""What a run with one option of a group needs besides."""
WRONG: dict[type, tuple[Any, ...]] = {
    bool: ("text", 7, {"a": 1}, [1]),
    int: ("text", True, {"a": 1}, ["x"]),
    float: ("text", True, {"a": 1}, ["x"]),
    str: (7, True, {"a": 1}, [1]),
    dict: ("text", 7, True, [1]),
    list: (7, True, {"a": 1}, [1]),
}
"""What no key takes that takes a value of this type."""
FITS = {("dataset.data_files", "text")}
"""But for a key that takes several."""


@dataclass(frozen=True)
class File:
    """A shipped file, composed."""

    choice: str
    composed: Composed
    keys: tuple[str, ...]


def files() -> list[str]:
    """How each shipped recipe and group file is chosen."""
    own = [f"{group}={name}" for group, names in recipes.groups().items() for name in names]
    return [*own, *(f"recipe={name}" for name in recipes.names())]


@cache
def read(choice: str) -> File:
    group, _, name = choice.partition("=")
    is_recipe = group == "recipe"
    file = recipes.find(name) if is_recipe else recipes.CONF / group / f"{name}.yaml"
    composed = compose([choice, *(() if is_recipe else (*PATHS, *NEEDED.get(choice, ())))])
    check(composed)
    return File(choice, composed, tuple(origin.lines(file, "" if is_recipe else group)))


def slips(word: str) -> Iterator[str]:
    """Every slip of one finger: a letter twice, left out, changed, or swapped with the next."""
    for at, letter in enumerate(word):
        yield word[: at + 1] + word[at:]
        if len(word) > 3:
            yield word[:at] + word[at + 1 :]
            yield word[:at] + ("x" if letter != "x" else "z") + word[at + 1 :]
        if len(word) > 3 and at + 1 < len(word) and word[at + 1] != letter:
            yield word[:at] + word[at + 1] + letter + word[at + 2 :]


def few(word: str) -> Iterator[str]:
    """One slip of each kind, in the middle of the word."""
    middle = len(word) // 2
    yield word[: middle + 1] + word[middle:]
    if len(word) > 3:
        yield word[:middle] + word[middle + 1 :]
        yield word[:middle] + ("x" if word[middle] != "x" else "z") + word[middle + 1 :]
        if word[middle] != word[middle + 1 : middle + 2]:
            yield word[:middle] + word[middle + 1 : middle + 2] + word[middle] + word[middle + 2 :]


def misspelt(file: File, key: str, wrong: str) -> list[Problem]:
    """The problems of a file's config in which the last name of a key is written wrong."""
    values, parts = deepcopy(file.composed.values), key.split(".")
    node = values
    for part in parts[:-1]:
        node = node[part]
    node[wrong] = node.pop(parts[-1])
    return problems(replace(file.composed, values=values))


def mistyped(file: File, key: str) -> Iterator[tuple[Any, list[Problem]]]:
    """Each value of a wrong type for a key, and the problems that it makes."""
    if key.startswith(PLANNED):
        return
    parts = key.split(".")
    node = file.composed.values
    for part in parts:
        node = node[part]
    for value in (each for each in WRONG.get(type(node), ()) if not (isinstance(each, str) and (key, each) in FITS)):
        values = deepcopy(file.composed.values)
        above = values
        for part in parts[:-1]:
            above = above[part]
        above[parts[-1]] = value
        yield value, problems(replace(file.composed, values=values))


def problems(composed: Composed) -> list[Problem]:
    try:
        check(composed)
    except ConfigError as error:
        return list(error.problems)
    return []


def is_right(found: list[Problem], key: str, wrong: str) -> bool:
    """Whether the wrong key is refused, and the first name that is suggested is the right one."""
    at = f"{key.rpartition('.')[0]}.{wrong}".lstrip(".")
    return any(problem.key == at and problem.hint.startswith(f"Did you mean {key}?") for problem in found)


def is_ambiguous(found: list[Problem], key: str, wrong: str) -> bool:
    """Whether what is suggested instead lies as near; `load_in_bit` could be 4bit as well as 8bit."""
    other = found[0].hint.removeprefix("Did you mean ").removesuffix("?") if len(found) == 1 else ""
    right, near = key.rpartition(".")[2], other.rpartition(".")[2]
    return near != right and bool(near) and distance(wrong, near) <= distance(wrong, right)


def options() -> Iterator[tuple[str, str]]:
    """Every choice from a group that a shipped recipe makes."""
    for name in recipes.names():
        yield from inheritance.read(name).choices.items()


def is_told_apart(wrong: str, right: str, names: list[str]) -> bool:
    """Whether a slip is nearer to the right name than to any other; `lola` could be `lora` as well as `loha`."""
    return wrong not in names and all(
        distance(wrong, name) > distance(wrong, right) for name in names if name != right
    )


def is_right_choice(group: str, option: str, wrong: str) -> bool:
    return f"Did you mean {group}={option}?" in str(groups.refusal(group, wrong, "here"))
