"""The program: the straight line from a config to a verified model."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from finetune.artifacts import publish, verify
from finetune.config.schema import Config
from finetune.config.task import RowError
from finetune.data.prepare import Prepared
from finetune.plan import frozen
from finetune.plan.catalogue import refuse_failed
from finetune.plan.plan import Plan
from finetune.plan.planned import planned
from finetune.plan.run_folder import RunFolder, create
from finetune.worker import work


def run(config: Config, notes: Sequence[str] = ()) -> RunFolder:
    """Train, verify and publish as the config says.

    Raises:
        PlanError: a check of the plan failed.
    """
    made, prepared = planned(config, notes)
    refuse_failed(made.checks)
    folder = frozen_folder(made, prepared)
    with folder.logged():
        work(folder)
        finish(folder, made)
    return folder


def frozen_folder(made: Plan, prepared: Prepared) -> RunFolder:
    """A new folder that holds the frozen plan."""
    folder = create(made.config.output_dir, made.config.name)
    frozen.freeze(made, folder)
    folder.write("questions.json", questions(made, prepared))
    folder.reached("planned")
    return folder


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
