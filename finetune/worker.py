"""What a rank runs: the frozen plan in, a trained and scored model out. No Hydra, no Hub.

torchrun --nproc-per-node=2 -m finetune.worker RUN
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from finetune.artifacts import verify
from finetune.artifacts.save import save
from finetune.errors import DONE, OUR_FAULT, FinetuneError, MachineError, Stopped
from finetune.evaluation import generation
from finetune.models.memory import keep_freed_memory
from finetune.plan import frozen
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder, find
from finetune.training import peers, ranks, signals
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


def main(arguments: Sequence[str] | None = None) -> None:
    """One rank of several, as torchrun starts it; exits with the codes of the command line."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    sys.exit(rank_of(find(path)))


def rank_of(folder: RunFolder) -> int:
    """Work as one rank, and say by its number what ends it; returns the exit code."""
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        with peers.watched(folder / "ranks", rank, ranks), _first_logs(folder, rank), signals.heard() as request:
            work(folder, request)
    except Stopped as stopped:
        print(f"finetune: {stopped}. Go on with: finetune resume {folder.path}", file=sys.stderr)
        return stopped.exit_code
    except FinetuneError as error:
        print(f"finetune: rank {rank}: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        print(f"finetune: rank {rank}: {error}", file=sys.stderr)
        return OUR_FAULT
    return DONE


@contextmanager
def _first_logs(folder: RunFolder, rank: int) -> Iterator[None]:
    """One process keeps the others out of the folder and writes its log; every rank would hold the same lock."""
    if rank:
        yield
        return
    with folder.locked(), folder.logged():
        yield


if __name__ == "__main__":
    main()
