"""How two recipes or two runs differ: what was asked for, and of runs also what decided and what came of it.

Knows the files of a run; loads no library.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.config.check import dump, load_config
from finetune.config.explain import origin_of
from finetune.config.provenance import leaves
from finetune.plan.run_folder import RunFolder

ABSENT = "not set"
OF_A_RUN = ("source", "precision", "batches", "environment", "rows", "model")
"""Parts of a plan that a config does not decide alone."""


def differences(left: str, right: str) -> Iterator[tuple[str, str, str]]:
    """Each key whose values differ: the key, and what each side says.

    Args:
        left: a recipe by name or file, or the folder of a run; and so `right`.
    Raises:
        UserError: there is no such recipe or run.
    """
    one, other = _side(left), _side(right)
    for key in dict.fromkeys([*one, *other]):
        if one.get(key, ABSENT) != other.get(key, ABSENT):
            yield key, one.get(key, ABSENT), other.get(key, ABSENT)


def _side(name: str) -> dict[str, str]:
    folder = RunFolder(Path(name).expanduser())
    return _of_run(folder) if (folder / "plan.json").is_file() else _of_recipe(name)


def _of_recipe(name: str) -> dict[str, str]:
    config, composed = load_config([f"recipe={name}"])
    return {key: f"{value!r}  ({origin_of(key, composed)})" for key, value in leaves(dump(config))}


def _of_run(folder: RunFolder) -> dict[str, str]:
    """Values without the places they were written in, which lie behind a run."""
    plan: dict[str, Any] = folder.read("plan.json")
    decided = {f"plan.{name}": plan[name] for name in OF_A_RUN if name in plan}
    scores = (folder.read("evaluation.json") or {}).get("scores", {})
    return {key: repr(value) for key, value in leaves(plan["config"] | decided | {"scores": scores})}
