"""What a run may go on from: its own newest checkpoint that is whole, if the run is still the one that began.

Knows the folder of a run and its plan; nothing of trainers.
"""

import logging
from pathlib import Path

from finetune.errors import UserError
from finetune.plan import frozen, identity
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder
from finetune.training import checkpoint

log = logging.getLogger(__name__)

RANKS = ". Steps see the same rows; sums are rounded in another order and dropout is drawn anew, so not to the bit"


def parent(plan: Plan, folder: RunFolder) -> Path | None:
    """The checkpoint to go on from: the newest whole one of this run, else the one the recipe names, else none.

    Raises:
        UserError: the named one cannot be used, or is of a run that differs.
    """
    began, named = folder.read("run.json"), plan.config.trainer.get("resume_from_checkpoint")
    checkpoint.sweep(folder / "checkpoints")
    newest = checkpoint.newest(folder / "checkpoints", began["id"])
    if newest or not named:
        return newest
    if wrong := checkpoint.fault(Path(named)):
        raise UserError(f"trainer.resume_from_checkpoint={named}: {wrong}")
    was, accepted = checkpoint.read(Path(named)).identity, plan.config.checkpoint.accept
    identity.check(was, began["identity"], accepted, named)
    return Path(named)


def differs(folder: RunFolder, made: Plan) -> bool:
    """Whether something that the run depends on has changed, and is accepted; every change is said.

    Raises:
        UserError: something has changed that is not accepted.
    """
    was, now = folder.read("run.json")["identity"], identity.of(made)
    changed = identity.check(was, now, made.config.checkpoint.accept, str(folder.path))
    for change in [*changed, *_harmless(folder, made)]:
        log.info("changed since the run began: %s%s", change, RANKS if change.field == "machine.ranks" else "")
    return bool(changed)


def go_back(folder: RunFolder, step: int) -> None:
    """Set aside what came after a step.

    Raises:
        UserError: there is no checkpoint of that step.
    """
    with folder.locked():
        steps = sorted(map(checkpoint.step_of, checkpoint.found(folder / "checkpoints")))
        if step not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise UserError(f"--back-to {step}: there is no such checkpoint. Checkpoints: {known}")
        checkpoint.go_back(folder / "checkpoints", step)
        folder.reached("training")


def _harmless(folder: RunFolder, made: Plan) -> list[identity.Change]:
    """What differs from the plan before and changes nothing that is learned."""
    return identity.changes(identity.circumstances(frozen.read(folder)), identity.circumstances(made))
