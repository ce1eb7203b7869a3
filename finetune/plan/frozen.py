"""The door between the front end and the ranks: one file, sealed with its hash. Nothing else passes through it."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import yaml

from finetune.config import check
from finetune.errors import UserError
from finetune.plan.plan import Plan, as_json, from_json
from finetune.plan.run_folder import RunFolder
from finetune.plan.show import markdown


def freeze(plan: Plan, folder: RunFolder) -> None:
    """Write the plan, and the config as a recipe that runs again."""
    folder.write("plan.json", sealed(plan))
    folder.write_text("plan.md", markdown(plan))
    # Run again, it is another run: it gets a folder of its own, and differs from nothing.
    again = replace(plan.config, run_folder=None, checkpoint=replace(plan.config.checkpoint, accept=[]))
    folder.write_text("config.yaml", yaml.safe_dump(check.dump(again), sort_keys=False, allow_unicode=True))


def sealed(plan: Plan) -> dict[str, Any]:
    """Plain values of a plan, with their hash."""
    values = as_json(plan)
    return {"sha256": seal(values), **values}


def read(folder: RunFolder) -> Plan:
    """The plan of a run.

    Raises:
        UserError: the file was changed after it was frozen.
    """
    values = folder.read("plan.json")
    expected = values.pop("sha256", None)
    if seal(values) != expected:
        raise UserError(f"{folder / 'plan.json'} was changed after the run was planned; plan a new run instead")
    return from_json(values)


def seal(values: dict[str, Any]) -> str:
    """The hash of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
