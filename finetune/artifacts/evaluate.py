"""Score a finished run again, on any of its prepared splits."""

from finetune.artifacts.predict import check_finished
from finetune.artifacts.save import load, load_tokenizer
from finetune.errors import UserError
from finetune.plan import frozen
from finetune.plan.run_folder import RunFolder
from finetune.training.train import evaluation_of, scored_rows


def evaluate(folder: RunFolder, split: str) -> dict[str, float]:
    """Scores of the saved model on a split.

    Raises:
        UserError: the run has no model, no such split, or its prepared rows are gone.
    """
    plan = frozen.read(folder)
    check_finished(folder)
    if split not in plan.report:
        raise UserError(f"--split {split}: the run has the splits {', '.join(plan.report)}")
    try:
        rows = scored_rows(plan, folder, split)
    except FileNotFoundError:
        raise UserError(
            f"the prepared rows of the run are gone; `finetune plan recipe={folder / 'config.yaml'}` makes them again"
        ) from None
    return evaluation_of(plan, load_tokenizer(plan, folder.model))(load(plan, folder.model), rows)
