"""The rehearsal: a recipe's whole line with everything shrunk, and a run that goes on from a checkpoint.

Knows the order of things. What is replaced, and by what, is decided in the modules beside it.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune import run
from finetune.artifacts import verify
from finetune.artifacts.verify import Finding
from finetune.config.schema import Config
from finetune.errors import FinetuneError, UserError
from finetune.plan import frozen
from finetune.plan.catalogue import refuse_failed
from finetune.plan.planned import planned
from finetune.plan.run_folder import RunFolder
from finetune.rehearse.set_up import set_up
from finetune.rehearse.shrink import STEPS, Replaced, resumed
from finetune.training.train import train
from finetune.worker import work

# A checkpoint holds every number as it was; what differs is the order of sums.
TOLERANCE = 1e-3
Verify = Callable[[RunFolder], list[Finding]]


@dataclass(frozen=True)
class Stage:
    """A stage that worked: what came of it, and how long it took."""

    name: str
    detail: str
    seconds: float

    def __str__(self) -> str:
        return f"✓ {self.name} in {self.seconds:.1f} s: {self.detail}"


def rehearse(
    config: Config, folder: Path, model_type: str | None = None, verified: Verify = verify.run
) -> Iterator[Replaced | Stage]:
    """What is replaced, then each stage as it is done.

    Args:
        folder: for the tiny model, the rows and the runs.
        model_type: the type of the model, where it is not to be found out.
        verified: how the saved model is compared with the trained one.
    Raises:
        UserError: the recipe cannot work as it is, or what its model is is not known.
        FinetuneError: a run from a checkpoint ends elsewhere, or the saved model is not the trained one.
    """
    clock = _Clock()
    small, replaced, (plan, prepared) = set_up(config, folder, model_type)
    yield from replaced
    kept = ", ".join(f"{split} {account['kept']} of {account['read']}" for split, account in plan.report.items())
    yield clock.stage("planned", f"rows kept: {kept}; {len(plan.checks)} checks passed")

    first = run.frozen_folder(plan, prepared)
    with first.logged():
        work(first)
    yield clock.stage("trained", f"{_losses(first)}; scored and saved")

    yield clock.stage("resumed", _resume(small, first))
    findings = verified(first)
    yield clock.stage("verified", ", ".join(finding.name for finding in findings))


def in_folder(config: Config, keep: Path | None, model_type: str | None = None) -> Iterator[Replaced | Stage]:
    """The rehearsal in a new folder that is kept, or in one that goes when it ends, with its prepared rows.

    Raises:
        UserError: the folder to keep it in has something in it, or whatever the rehearsal raises.
    """
    if keep is not None:
        yield from rehearse(config, _empty(keep), model_type)
        return
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        try:
            yield from rehearse(config, Path(folder), model_type)
        finally:
            for made in Path(folder).glob("runs/*/*/plan.json"):
                shutil.rmtree(frozen.read(RunFolder(made.parent)).rows, ignore_errors=True)


def _empty(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if next(folder.iterdir(), None) is None:
            return folder.resolve()
    except OSError as error:
        raise UserError(f"--keep {folder} cannot be written: {error.strerror}") from None
    raise UserError(f"--keep {folder}: there is something in it already; name a new folder")


class _Clock:
    """Seconds since the last stage."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def stage(self, name: str, detail: str) -> Stage:
        """A stage that ends now."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        return Stage(name, detail, seconds)


def _losses(folder: RunFolder) -> str:
    return f"loss {', '.join(f'{loss:.4f}' for loss in losses(folder).values())} in {STEPS} steps"


def losses(folder: RunFolder) -> dict[int, float]:
    """Step to the training loss that was logged at it."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["step"]: entry["loss"] for entry in map(json.loads, lines) if "loss" in entry}


def _resume(small: Config, first: RunFolder) -> str:
    """Go on from the checkpoint of the first step, and end where the first run ended.

    Raises:
        FinetuneError: it ends elsewhere.
    """
    checkpoint = first / "checkpoints" / "checkpoint-1"
    plan, prepared = planned(resumed(small, checkpoint))
    refuse_failed(plan.checks)
    second = run.frozen_folder(plan, prepared)
    with second.logged():
        scores = train(plan, second).scores
    expected = {"loss of the last step": losses(first)[STEPS], **first.read("evaluation.json")["scores"]}
    found = {"loss of the last step": losses(second)[STEPS], **scores}
    far = [name for name, value in found.items() if abs(value - expected[name]) > TOLERANCE * max(1.0, abs(value))]
    if far:
        differences = ", ".join(f"{name} {found[name]:.6g} instead of {expected[name]:.6g}" for name in far)
        raise FinetuneError(f"a run that goes on from {checkpoint.name} ends elsewhere: {differences}")
    return f"from {checkpoint.name}, and ended with the same losses and scores"
