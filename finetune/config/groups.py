"""The config groups: what each offers, and what to say of a choice that it does not."""

from typing import Any

from finetune.config import options, recipes
from finetune.config.installed import tasks
from finetune.config.suggest import nearest
from finetune.errors import Problem

TASK = "task"
METHODS = ("adapter", "quantization")
"""Groups that offer every method of a library by its own name, beside the files of ours."""
PRESETS = ("model", "dataset", "tokenizer")
"""Groups whose files are presets: people mistake them for a key that takes a path."""

INSTEAD = {
    ("parallel", "tp"): "A layer is not cut among GPUs in this version. parallel=fsdp2 shares out the same memory: "
    "weights, gradients and optimizer",
    ("parallel", "cp"): "A row is not cut among GPUs in this version. For long rows write "
    "trainer.activation_checkpointing=true, and parallel=fsdp2 for the weights",
}
"""What is asked for and not there, and what serves for it."""


def names() -> list[str]:
    """Every group a user can choose from."""
    return sorted({TASK, *recipes.groups()})


def offered(group: str) -> list[str]:
    """The options of a group; a file of ours comes before a library's method."""
    own = recipes.groups().get(group, [])
    more = tasks() if group == TASK else options.methods(group) if group in METHODS else ()
    return list(dict.fromkeys([*own, *more]))


def refusal(group: str, option: Any, where: str) -> Problem | None:
    """What is wrong with a choice, or None."""
    if group not in names():
        close = nearest(group, names())
        hint = f"Did you mean {close}={option}?" if close else f"Groups: {', '.join(names())}"
        return Problem(group, where, "is not a config group.", hint)
    if isinstance(option, dict):
        return Problem(
            group, where, "is a group, and its keys are written one by one.", f"Write {_one_by_one(group, option)}"
        )
    if option not in offered(group):
        return Problem(group, where, f"{option} is not an option of {group}.", _hint(group, option))
    return None


def _one_by_one(group: str, keys: dict[Any, Any]) -> str:
    return " ".join(f"{group}.{key}=…" for key in keys)


def _hint(group: str, option: Any) -> str:
    if instead := INSTEAD.get((group, str(option))):
        return instead
    known = offered(group)
    listed = f"Presets: {', '.join(known)}." if group in PRESETS else f"Options: {', '.join(known)}"
    close = nearest(str(option), known)
    guess = f"Did you mean {group}={close}?" if close else listed
    path = f" A path is written {group}.path={option}" if group in PRESETS and isinstance(option, str) else ""
    return guess + path
