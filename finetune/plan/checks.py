"""The catalogue: what can be known to be wrong before the first step. Each check passes with a detail, or raises."""

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from finetune.config.schema import Config
from finetune.data.prepare import Prepared
from finetune.errors import MachineError, MissingExtra, UserError
from finetune.evaluation import metrics
from finetune.models import adapter, quantization
from finetune.models.source import hub_id
from finetune.plan import environment
from finetune.plan.run_folder import check_writable


@dataclass(frozen=True)
class Check:
    """One check that passed, and what it found."""

    name: str
    detail: str


def early(config: Config) -> Iterator[Check]:
    """What the config alone decides; run before data is touched."""
    yield Check("processes", _processes())
    check_writable(config.output_dir)
    yield Check("output folder", f"{config.output_dir} can be written")
    quantization.check_installed(config.quantization)
    _check_trainable(config)
    _check_resume(config.trainer.get("resume_from_checkpoint"))
    yield Check("quantization", str(config.quantization["method"]))
    yield Check("tracking", _tracking(config))
    yield Check("publishing", _publishing(config))
    yield Check("metrics", _metrics(config))
    yield Check("remote code", "on: code of the repository will run" if config.model.trust_remote_code else "off")


def late(prepared: Prepared) -> Iterator[Check]:
    """What the prepared rows decide."""
    for split, account in prepared.report.items():
        yield Check(f"rows of {split}", f"{account['read']} read, {account['kept']} kept")
    trained = prepared.report["train"]["notes"].get("trained tokens")
    if trained is not None:
        tokens = prepared.report["train"]["notes"]["tokens"]
        yield Check("trained tokens", f"{trained} of {tokens} ({trained / tokens:.0%})")


def _processes() -> str:
    if environment.ranks() > 1:
        raise UserError(
            f"WORLD_SIZE={environment.ranks()}: this version trains in one process. Start it with `finetune train`, "
            "not with torchrun or accelerate launch"
        )
    idle = max(0, torch.cuda.device_count() - 1)
    return f"1; {idle} more GPUs stay idle" if idle else "1"


def _check_trainable(config: Config) -> None:
    if config.quantization["method"] != quantization.NONE and config.adapter["method"] == adapter.FULL:
        raise UserError("a quantized base is frozen, so adapter=full would train nothing of it: write adapter=qlora")


def _check_resume(checkpoint: Any) -> None:
    if checkpoint and not (Path(str(checkpoint)) / "manifest.json").is_file():
        raise UserError(
            f"trainer.resume_from_checkpoint={checkpoint}: there is no checkpoint. Write its folder: "
            "RUN/checkpoints/checkpoint-N"
        )


def _tracking(config: Config) -> str:
    for package in config.tracking.report_to:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "track")
    return ", ".join(config.tracking.report_to) or "metrics.jsonl"


def _publishing(config: Config) -> str:
    if config.publish.to == "none":
        return "nothing leaves this machine"
    if not config.publish.repo_id:
        raise UserError("publish=hub needs publish.repo_id, for example publish.repo_id=me/my-model")
    try:
        validate_repo_id(config.publish.repo_id)
    except HFValidationError as error:
        raise UserError(f"publish.repo_id={config.publish.repo_id}: {error}") from None
    check_publishable(config)
    return f"{config.publish.repo_id}, {'private' if config.publish.private else 'public'}"


def check_publishable(config: Config) -> None:
    """Refuse what nobody could load, or what nobody is allowed to upload.

    Raises:
        UserError: an adapter whose base has no Hub id.
        MachineError: there is no token.
    """
    if config.adapter["method"] != adapter.FULL and hub_id(config.model) is None:
        raise UserError(
            "the adapter's base is a folder of this machine, so nobody could load it. Write model.base_id=HUB/ID of "
            "the same weights, or train with adapter=full"
        )
    if not get_token():
        raise MachineError("publishing needs a Hub token: run `hf auth login`, or set HF_TOKEN")


def _metrics(config: Config) -> str:
    for name in config.evaluation.metrics or []:
        if name not in metrics.names():
            metrics.load(name)
    pattern = config.evaluation.generation.answer_pattern
    if pattern is not None:
        _check_pattern(pattern)
    return ", ".join(config.evaluation.metrics or ["the task's own"])


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(
            f"evaluation.generation.answer_pattern={pattern!r} is not a regular expression: {error}"
        ) from None
    if groups < 1:
        raise UserError(f"evaluation.generation.answer_pattern={pattern!r} has no group; write one, as in `#### (.+)`")
