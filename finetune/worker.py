"""What a rank runs: the frozen plan in, a trained and scored model out. No Hydra, no Hub."""

import json
import shutil

import torch

from finetune.artifacts import verify
from finetune.artifacts.save import save
from finetune.errors import MachineError
from finetune.evaluation import generation
from finetune.models.memory import keep_freed_memory
from finetune.plan import frozen
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder
from finetune.training import ranks
from finetune.training.signals import Request
from finetune.training.train import Trained, train

LESS_MEMORY = (
    "What costs least, first: a smaller trainer.per_device_train_batch_size (global_batch_size keeps the step), "
    "trainer.activation_checkpointing=true, a shorter tokenizer.max_length, adapter=qlora."
)


def work(folder: RunFolder, request: Request | None = None) -> None:
    """Train, score and save one run; see `train`."""
    keep_freed_memory()
    plan = frozen.read(folder)
    if ranks.is_first():
        folder.reached("training")
    try:
        trained = train(plan, folder, request)
    except torch.OutOfMemoryError as error:
        raise MachineError(f"{str(error).splitlines()[0]} {LESS_MEMORY}") from None
    if not ranks.is_first():
        return
    folder.reached("evaluating")
    generated = _answers(trained, plan, folder)
    _save_whole(trained, folder)
    verify.record(trained, plan, folder)
    folder.write(
        "evaluation.json",
        {
            "score": _score(plan, trained.scores),
            "rows": plan.report["validation"]["kept"],
            "scores": {**trained.scores, **generated},
            "baseline": trained.baseline,
            "attention": trained.model.config._attn_implementation,
            "training_seconds": round(trained.seconds, 1),
        },
    )
    folder.reached("saved")


def _save_whole(trained: Trained, folder: RunFolder) -> None:
    """The model under its name only when all of it is there; one of before gives way."""
    staged = folder / ".model"
    shutil.rmtree(staged, ignore_errors=True)
    save(trained.model, trained.tokenizer, staged)
    shutil.rmtree(folder.model, ignore_errors=True)
    staged.rename(folder.model)


def _score(plan: Plan, scores: dict[str, float]) -> tuple[str, bool]:
    """The task's score, or the loss where the recipe asks for other metrics."""
    name, greater = plan.config.task.score(plan.facts)
    return (name, greater) if name in scores else ("loss", False)


def _answers(trained: Trained, plan: Plan, folder: RunFolder) -> dict[str, float]:
    """Generated answers, where the recipe asks for them: kept as text, scored as shares."""
    questions = folder.read("questions.json")
    if not questions:
        return {}
    config = plan.config.evaluation.generation
    answers = generation.answer_all(
        plan.config.task, trained.model, trained.tokenizer, questions, plan.precision.compute, config
    )
    lines = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    (folder / "answers.jsonl").write_text(lines, encoding="utf-8")
    return generation.scores(answers)
