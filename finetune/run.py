"""The program: the straight line from a config to a verified model."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from uuid import uuid4

from finetune.artifacts import publish, verify
from finetune.config.check import load_config
from finetune.config.schema import Config
from finetune.config.task import RowError
from finetune.data.prepare import Prepared, prepare
from finetune.errors import Stopped, UserError
from finetune.plan import checks, frozen, identity, plan
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder, create, find
from finetune.training import checkpoint, signals
from finetune.training.signals import Request
from finetune.worker import work

log = logging.getLogger(__name__)

SAVED = ("saved", "verified", "published")
DONE = ("verified", "published")
RANKS = ". Steps see the same rows; sums are rounded in another order and dropout is drawn anew, so not to the bit"


def planned(config: Config) -> tuple[Plan, Prepared]:
    """Prepare and plan; nothing is written but the prepared rows."""
    early = list(checks.early(config))
    prepared = prepare(config)
    return plan.make(config, prepared, early), prepared


def run(config: Config) -> RunFolder:
    """Train, verify and publish as the config says. A folder that holds a run goes on with it."""
    with ExitStack() as held:
        if config.run_folder:
            held.enter_context(RunFolder(Path(config.run_folder).expanduser()).locked())
        made, prepared = planned(config)
        folder = going_on(made, prepared) or frozen_folder(made, prepared)
        if not config.run_folder:
            held.enter_context(folder.locked())
        held.enter_context(folder.logged())
        try:
            complete(folder, made, held.enter_context(signals.heard()))
        except Stopped as stopped:
            raise Stopped(f"{stopped}. Go on with: finetune resume {folder.path}") from None
    return folder


def complete(folder: RunFolder, made: Plan, request: Request) -> None:
    """The stages that are still to be done."""
    if folder.stage not in SAVED:
        work(folder, request)
    if folder.stage not in DONE:
        finish(folder, made)


def resume(path: str, back_to: int | None, overrides: list[str]) -> RunFolder:
    """Go on with the run in a folder: what `train` does with its config and `run_folder=PATH`.

    Args:
        back_to: the step to go back to first; later checkpoints are set aside.
    """
    folder = find(path)
    config, _ = load_config([f"recipe={folder / 'config.yaml'}", *overrides])
    if back_to is not None:
        go_back(folder, back_to)
    return run(replace(config, run_folder=str(folder.path)))


def go_back(folder: RunFolder, step: int) -> None:
    """Set aside what came after a step.

    Raises:
        UserError: there is no checkpoint of that step.
    """
    with folder.locked():
        found = checkpoint.found(folder / "checkpoints")
        if step not in map(checkpoint.step_of, found):
            steps = ", ".join(str(checkpoint.step_of(each)) for each in reversed(found))
            raise UserError(f"--back-to {step}: there is no such checkpoint. Checkpoints: {steps or 'none'}")
        checkpoint.go_back(folder / "checkpoints", step)
        folder.reached("training")


def going_on(made: Plan, prepared: Prepared) -> RunFolder | None:
    """The run that the named folder holds, if it holds one and it is this run.

    Raises:
        UserError: something that the run depends on has changed, and is not accepted.
    """
    folder = RunFolder(Path(made.config.run_folder or "").expanduser())
    began = folder.read("run.json") if made.config.run_folder else None
    if not began:
        return None
    now = identity.of(made)
    changed = identity.check(began["identity"], now, made.config.checkpoint.accept, str(folder.path))
    for change in [*changed, *harmless(folder, made)]:
        log.info("changed since the run began: %s%s", change, RANKS if change.field == "machine.ranks" else "")
    freeze(folder, made, prepared, began["id"])
    if changed:
        folder.reached("training")
    return folder


def harmless(folder: RunFolder, made: Plan) -> list[identity.Change]:
    """What differs from the plan before and changes nothing that is learned."""
    was = frozen.read(folder)
    return identity.changes(identity.circumstances(was), identity.circumstances(made))


def frozen_folder(made: Plan, prepared: Prepared) -> RunFolder:
    """A new folder that holds the frozen plan."""
    named = made.config.run_folder
    folder = RunFolder(Path(named).expanduser()) if named else create(made.config.output_dir, made.config.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    freeze(folder, made, prepared, uuid4().hex)
    folder.reached("planned")
    return folder


def freeze(folder: RunFolder, made: Plan, prepared: Prepared, run: str) -> None:
    """Write the plan, and last what says that there is a run."""
    frozen.freeze(made, folder)
    folder.write("questions.json", questions(made, prepared))
    folder.write("run.json", {"id": run, "identity": identity.of(made)})


def questions(made: Plan, prepared: Prepared) -> list[dict]:
    """What is asked of the model after training, and the answers expected."""
    wanted = made.config.evaluation.generation.rows
    return list(islice(_asked(made, prepared), wanted)) if wanted else []


def _asked(made: Plan, prepared: Prepared) -> Iterator[dict]:
    for row in prepared.raw["validation"]:
        # A row that cannot be read was dropped, and counted, when the rows were prepared.
        with suppress(RowError):
            prompt, answer = made.config.task.question(row, made.facts)
            yield {"prompt": prompt, "answer": answer}


def finish(folder: RunFolder, made: Plan) -> None:
    """Verify in a fresh process, then publish if asked."""
    verify.run(folder)
    folder.reached("verified")
    if made.config.publish.to == "hub":
        publish.publish(folder, made.config.publish)
        folder.reached("published")
