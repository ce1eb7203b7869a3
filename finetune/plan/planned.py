"""The front half of the line: config to rows to plan, with every check, and nothing trained.

Loads no trainer and no weights: a login node can run it.
"""

from collections.abc import Sequence
from pathlib import Path

from finetune.config.schema import Config
from finetune.data.prepare import Prepared, prepare
from finetune.errors import UserError
from finetune.plan import checks, plan
from finetune.plan.catalogue import check_waivers, refuse_failed
from finetune.plan.frozen import sealed
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder
from finetune.plan.show import markdown


def planned(config: Config, notes: Sequence[str] = ()) -> tuple[Plan, Prepared]:
    """Prepare and plan; nothing is written but the prepared rows. Late checks that failed stand in the plan.

    Args:
        notes: what was written and is idle, because something written later decides.
    Raises:
        PlanError: what the config alone decides failed, or no plan can be made.
        UserError: the rows cannot be prepared.
    """
    check_waivers(config.plan.waive, checks.WAIVABLE)
    early = checks.early(config)
    refuse_failed(early)
    prepared = prepare(config)
    return plan.make(config, prepared, early, notes), prepared


def write(made: Plan, folder: Path) -> None:
    """Write the plan as JSON and as Markdown.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        RunFolder(folder).write("plan.json", sealed(made))
        (folder / "plan.md").write_text(markdown(made), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None
