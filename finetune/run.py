"""The program: the straight line from a config to a verified model."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from uuid import uuid4

from finetune.artifacts import publish, verify
from finetune.config.schema import Config
from finetune.config.task import RowError
from finetune.data import rendering
from finetune.data.prepare import Prepared
from finetune.errors import Stopped, UserError
from finetune.evaluation import generation
from finetune.evaluation.generation import Question
from finetune.launch import following, jobs, launching, queueing, typed
from finetune.launch.launching import Launch
from finetune.launch.typed import Place
from finetune.plan import frozen, identity
from finetune.plan.catalogue import refuse_failed
from finetune.plan.plan import Plan
from finetune.plan.planned import planned
from finetune.plan.run_folder import DONE, SAVED, RunFolder, create, find
from finetune.training import resume as resuming
from finetune.training import signals
from finetune.training.signals import Request
from finetune.worker import rank_of

log = logging.getLogger(__name__)

RENDERED_ROWS = 8


def run(
    config: Config,
    notes: Sequence[str] = (),
    tell: Callable[[RunFolder], None] | None = None,
    launch: Launch | None = None,
) -> RunFolder:
    """Train, verify and publish as the config says. A named folder that holds this run goes on with it.

    A run that is left to a job is only queued: its stage says so.

    Args:
        tell: lets the other ranks know of the folder, where this process is the first of several that were started.
        launch: what is done with the plan, where that is not as the config says.
    Raises:
        PlanError: a check of the plan failed.
        Stopped: the run was asked to stop, and can be resumed.
    """
    folder = None
    launch = launch or (launching.here if tell else launching.of(config.launch))
    try:
        with signals.heard() as request, ExitStack() as held:
            if config.run_folder:
                held.enter_context(_kept_out(RunFolder(Path(config.run_folder).expanduser())))
            made, prepared = planned(config, notes)
            refuse_failed(made.checks)
            folder = run_folder(made, prepared)
            if not config.run_folder:
                held.enter_context(folder.locked())
            held.enter_context(folder.logged())
            if tell:
                tell(folder)
            complete(folder, made, request, launch)
    except Stopped as stopped:
        way_on = f"Go on with: finetune resume {folder.path}" if folder else "Go on with the same command"
        raise Stopped(f"{stopped}. {way_on}") from None
    return folder


@contextmanager
def _kept_out(folder: RunFolder) -> Iterator[None]:
    """Others are, on this machine and in the queue."""
    with folder.locked():
        jobs.check_idle(folder)
        yield


def run_as_rank(place: Place, load: Callable[[], tuple[Config, Sequence[str]]]) -> RunFolder:
    """The same in one of several processes that the user started.

    Args:
        load: composes the config; the first rank alone does.
    Raises:
        SystemExit: another rank than the first is at its end.
    """
    if place.rank:
        raise SystemExit(rank_of(typed.folder_of_run()))
    first = typed.First()
    with first.telling():
        config, notes = load()
        config = replace(config, launch=typed.chosen(config.launch, place))
        return run(config, notes, first.tell)


def complete(folder: RunFolder, made: Plan, request: Request, launch: Launch) -> None:
    """The stages that are still to be done."""
    if folder.stage in DONE:
        log.info("%s is finished; a longer run goes on with checkpoint.accept=[total_steps]", folder.path)
    if folder.stage not in SAVED:
        launch(folder, made, request)
    if folder.stage in SAVED:
        finish(folder, made)


def followed(folder: RunFolder, show: Callable[[str], None]) -> bool:
    """Whether a run that was left to a job is finished by now: it is waited for where the recipe says so.

    Raises:
        FinetuneError: how the job ended.
    """
    made = frozen.read(folder)
    if not made.config.launch.follow:
        return False
    try:
        following.follow(folder, show)
    except KeyboardInterrupt:
        show(f"the job goes on; finetune jobs cancel {folder.path} ends it\n")
        raise
    finish(folder, made)
    return True


def script_of(config: Config, notes: Sequence[str]) -> tuple[str, str]:
    """The script of a job that the config would be, and what the cluster says of it; nothing is queued.

    Raises:
        PlanError: a check of the plan failed.
        UserError: it would be no job, or the cluster refuses it.
    """
    if config.launch.method not in queueing.WRITTEN:
        raise UserError(f"--dry-run shows the script of a job, and launch={config.launch.method} is none. "
                        "`finetune plan` shows what would be trained")  # fmt: skip
    made, _ = planned(config, notes)
    refuse_failed(made.checks)
    return queueing.rehearsed(made)


def of_folder(path: str, overrides: Sequence[str], back_to: int | None) -> tuple[Config, Sequence[str]]:
    """The config that goes on with the run in a folder: its own, and `run_folder=PATH`.

    Args:
        back_to: the step to go back to first; later checkpoints are set aside.
    """
    from finetune.config.check import load_config

    folder = find(path)
    config, composed = load_config([f"recipe={folder / 'config.yaml'}", *overrides])
    if back_to is not None:
        resuming.go_back(folder, back_to)
    return replace(config, run_folder=str(folder.path)), composed.notes


def run_folder(made: Plan, prepared: Prepared) -> RunFolder:
    """The folder of this run: the named one, whether or not it holds the run already, or a new one.

    Raises:
        UserError: something that the run there depends on has changed, and is not accepted.
    """
    named = made.config.run_folder
    folder = RunFolder(Path(named).expanduser()) if named else None
    if folder is None or folder.read("run.json") is None:
        return frozen_folder(made, prepared)
    if resuming.differs(folder, made):
        folder.reached("training")
    freeze(folder, made, prepared, folder.read("run.json")["id"])
    return folder


def frozen_folder(made: Plan, prepared: Prepared) -> RunFolder:
    """A folder that holds the frozen plan of a new run."""
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
    if rendered := list(_rendered(made, prepared)):
        folder.write("rendered.json", rendered)
    folder.write("run.json", {"id": run, "identity": identity.of(made)})


def questions(made: Plan, prepared: Prepared) -> list[Question]:
    """What is asked of the model, and the answers expected.

    Raises:
        UserError: answers are wanted, and no row asks anything.
    """
    wanted = made.config.answer_rows
    if wanted == 0:
        return []
    found = list(islice(generation.asked(made.config.task, prepared.kept("validation")), wanted))
    if not found:
        raise UserError("no validation row asks anything that could be answered: write evaluation.generation.rows=0")
    return found


def _rendered(made: Plan, prepared: Prepared) -> Iterator[dict]:
    """The first rows as they are rendered for training, which the saved tokenizer must render alike."""
    now = datetime.now()
    if rendering.renders(made.config.task):
        rendering.at(now, prepared.tokenizer)
    for row, facts in islice(prepared.kept("validation"), RENDERED_ROWS):
        with suppress(RowError):
            if rendered := made.config.task.rendered(row, facts, prepared.tokenizer):
                yield rendered | {"at": now.isoformat()}


def finish(folder: RunFolder, made: Plan) -> None:
    """Verify in a fresh process, then publish if asked; what is done already is not done again."""
    if folder.stage not in DONE:
        verify.run(folder)
        folder.reached("verified")
    if made.config.publish.to == "hub" and folder.stage != "published":
        publish.publish(folder, made.config.publish)
        folder.reached("published")
