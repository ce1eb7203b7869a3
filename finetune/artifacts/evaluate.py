"""Score a finished run again, on any of its prepared splits."""

from dataclasses import replace
from itertools import islice

from finetune.artifacts.predict import check_finished
from finetune.artifacts.save import load, load_tokenizer
from finetune.data.prepare import prepare
from finetune.errors import UserError
from finetune.evaluation import generation
from finetune.evaluation.generation import Question
from finetune.plan import frozen
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder
from finetune.training import answering
from finetune.training.train import evaluation_of, scored_rows


def evaluate(folder: RunFolder, split: str) -> dict[str, float]:
    """Scores of the saved model on a split, of its answers too where the run has such.

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
    model, words = load(plan, folder.model), load_tokenizer(plan, folder.model)
    answer, questions = answering.of(plan, words), _questions(plan, folder, split)
    return {**evaluation_of(plan, words)(model, rows), **answer.scores(answer(model, questions))}


def _questions(plan: Plan, folder: RunFolder, split: str) -> list[Question]:
    """Those of the run, or as many of another split."""
    if split == "validation" or plan.config.answer_rows == 0:
        return answering.questions_of(folder)
    # This machine need not have as many accelerators as the run had.
    config = replace(plan.config, global_batch_size=plan.batches.global_batch)
    asked = generation.asked(config.task, prepare(config).kept(split))
    return list(islice(asked, plan.config.answer_rows))
