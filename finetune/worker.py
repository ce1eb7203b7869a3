"""What a rank runs: the frozen plan in, a trained and scored model out. No Hydra, no Hub.

torchrun --nproc-per-node=2 -m finetune.worker RUN
"""

import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch

from finetune.artifacts import verify
from finetune.artifacts.save import save
from finetune.errors import DONE, OUR_FAULT, FinetuneError, MachineError, Stopped
from finetune.models import precision
from finetune.models.memory import keep_freed_memory
from finetune.plan import frozen
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder, find
from finetune.training import answering, peers, ranks, signals
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
    precision.take_own(int(os.environ.get("LOCAL_RANK", "0")))
    _check_device(plan)
    if ranks.is_first():
        folder.reached("training")
    try:
        trained = train(plan, folder, request)
    except torch.OutOfMemoryError as error:
        raise MachineError(f"{str(error).splitlines()[0]} {LESS_MEMORY}") from None
    if ranks.is_first():
        folder.reached("evaluating")
        # Before anything is written by it: whatever happens there, the trained model is kept.
        _save_whole(trained, folder)
    answered, of_answers = _answers(trained, plan, folder)
    if not ranks.is_first():
        return
    scores = {**trained.scores, **of_answers}
    verify.record(trained, plan, folder)
    folder.write(
        "evaluation.json",
        {
            "score": _score(plan, scores),
            "rows": plan.report["validation"]["kept"],
            "answered": answered,
            "scores": scores,
            "baseline": trained.baseline,
            "attention": trained.model.config._attn_implementation,
            "training_seconds": round(trained.seconds, 1),
        },
    )
    folder.reached("saved")


def _check_device(plan: Plan) -> None:
    """Refuse a processor where accelerators were planned: it would take a thousand times as long, and say nothing.

    Raises:
        MachineError: there is none here.
    """
    if precision.device().type == "cpu" and not plan.arguments["use_cpu"]:
        raise MachineError(
            "the plan is for accelerators, and this process sees none. `nvidia-smi` says whether the machine has any; "
            "launch.gpus_per_node asks a cluster for them"
        )


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


def _answers(trained: Trained, plan: Plan, folder: RunFolder) -> tuple[int, dict[str, float]]:
    """How many rows are answered, where answers are wanted, and their scores; the texts are kept."""
    questions, answer = answering.questions_of(folder), answering.of(plan, trained.tokenizer, trained.spread)
    if not questions or not trained.is_here:
        return 0, {}
    answers = answer(trained.model, questions)
    if ranks.is_first():
        answering.keep(answers, folder)
    return len(answers), answer.scores(answers)


def _report(text: str) -> None:
    print(f"finetune: {text}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """One rank of several, as torchrun starts it; exits with the codes of the command line."""
    path, *launched = sys.argv[1:] if arguments is None else arguments
    if not launched:
        sys.exit(rank_of(find(path)))
    logging.getLogger("finetune").addHandler(logging.StreamHandler(sys.stdout))
    sys.exit(rank_of(find(path), lambda _: None))


def rank_of(folder: RunFolder, report: Callable[[str], None] = _report) -> int:
    """Work as one rank, and say by its number what ends it; returns the exit code.

    Args:
        report: what is said goes there; whoever started the ranks may say it once for all of them.
    """
    rank = _place()[0]
    _keep_output(folder, rank)
    try:
        # Heard to the end: torchrun sends a signal to whoever is not done when the first rank is.
        with signals.heard() as request, _first_logs(folder, rank):
            as_rank(folder, request)
    except Stopped as stopped:
        report(f"{stopped}. Go on with: finetune resume {folder.path}")
        return stopped.exit_code
    except FinetuneError as error:
        report(f"rank {rank}: {error}")
        return error.exit_code
    except Exception as error:
        report(f"rank {rank}: {error}")
        return OUR_FAULT
    return DONE


def as_rank(folder: RunFolder, request: Request | None = None) -> None:
    """Work as the rank that this process is, watched by the others; alone where there are none."""
    rank, count = _place()
    with peers.watched(folder / "ranks", rank, count):
        try:
            work(folder, request)
        except FinetuneError:
            raise
        except Exception:
            if "RANK" in os.environ:
                _keep_traceback(folder)
            raise


def _place() -> tuple[int, int]:
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _keep_output(folder: RunFolder, rank: int) -> None:
    """One stream of output for all: what other ranks print is kept in a file each."""
    if rank:
        (folder / "ranks").mkdir(exist_ok=True)
        file = os.open(folder / "ranks" / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(file, stream)


def _keep_traceback(folder: RunFolder) -> None:
    """The first rank that fails says where; a later one is its echo, and is in the rank's own output."""
    traceback.print_exc()
    with suppress(FileExistsError), (folder / "traceback.txt").open("x", encoding="utf-8") as file:
        traceback.print_exc(file=file)


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
