"""The catalogue: what can be known to be wrong before the first step. Each check passes with a detail, or raises."""

import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from finetune.config.schema import Config
from finetune.config.suggest import did_you_mean
from finetune.data.prepare import Prepared
from finetune.errors import MachineError, MissingExtra, UserError
from finetune.models import quantization
from finetune.models.source import hub_id
from finetune.plan import environment
from finetune.plan.batches import Batches
from finetune.plan.catalogue import Check, looked_at
from finetune.plan.costs import Costs
from finetune.plan.run_folder import check_writable

OVERRIDING = ("ACCELERATE_", "FSDP_")
"""Variables that accelerate reads before any argument."""
GIB = 2**30
NOTHING_FITS = "No change of batch, optimizer or adapter makes it fit: a smaller model, or a larger device"
WAIVABLE = ("environment", "memory", "disk")


def early(config: Config) -> list[Check]:
    """What the config and the machine decide; looked at before data is touched."""
    looks = [(name, partial(look, config)) for name, look in EARLY.items()]
    return list(looked_at(looks, config.plan.waive, WAIVABLE))


def late(config: Config, prepared: Prepared, batches: Batches, costs: Costs) -> list[Check]:
    """What the prepared rows and the estimates decide."""
    found = Found(config, prepared, batches, costs)
    of_splits = [(f"rows-{split}", partial(_rows, prepared, split)) for split in prepared.report]
    looks = [*of_splits, *((name, partial(look, found)) for name, look in LATE.items())]
    return list(looked_at(looks, config.plan.waive, WAIVABLE))


@dataclass(frozen=True)
class Found:
    """What late checks look at."""

    config: Config
    prepared: Prepared
    batches: Batches
    costs: Costs


# What the config and the machine decide


def _output_folder(config: Config) -> str:
    check_writable(config.output_dir)
    return f"{config.output_dir} can be written"


def _processes(_: Config) -> str:
    if environment.ranks() > 1:
        raise UserError(
            f"WORLD_SIZE={environment.ranks()}: this version trains in one process. Start it with `finetune train`, "
            "not with torchrun or accelerate launch"
        )
    idle = environment.idle_gpus()
    return f"1; {idle} more GPUs stay idle" if idle else "1"


def _environment(_: Config) -> str:
    """Variables that would change the run behind the recipe's back."""
    found = sorted(name for name in os.environ if name.startswith(OVERRIDING))
    if found:
        raise UserError(f"{', '.join(found)}: set in the environment, and would overrule the recipe. Unset them")
    return "no variable overrules the recipe"


def _quantization(config: Config) -> str:
    quantization.check_installed(config.quantization)
    return str(config.quantization["method"])


def _resume(config: Config) -> str:
    checkpoint = config.trainer.get("resume_from_checkpoint")
    if checkpoint and not (Path(str(checkpoint)) / "manifest.json").is_file():
        raise UserError(
            f"trainer.resume_from_checkpoint={checkpoint}: there is no checkpoint. Write its folder: "
            "RUN/checkpoints/checkpoint-N"
        )
    return f"from {checkpoint}" if checkpoint else "from the beginning"


def _tracking(config: Config) -> str:
    for package in config.tracking.report_to:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "track")
    switched_off = os.environ.get("WANDB_MODE") == "disabled" or "WANDB_DISABLED" in os.environ
    if "wandb" in config.tracking.report_to and switched_off:
        raise UserError(
            "tracking=wandb, but WANDB_MODE or WANDB_DISABLED in the environment switches it off. Unset it"
        )
    where = "online" if config.tracking.online else "on this machine"
    return f"{', '.join(config.tracking.report_to)}, {where}" if config.tracking.report_to else "metrics.jsonl"


def _publishing(config: Config) -> str:
    if config.publish.to == "none":
        return "nothing leaves this machine"
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(str(config.publish.repo_id))
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
    from huggingface_hub import get_token

    if config.adapter["method"] != "full" and hub_id(config.model) is None:
        raise UserError(
            "the adapter's base is a folder of this machine, so nobody could load it. Write model.base_id=HUB/ID of "
            "the same weights, or train with adapter=full"
        )
    if not get_token():
        raise MachineError("publishing needs a Hub token: run `hf auth login`, or set HF_TOKEN")


def _metrics(config: Config) -> str:
    from finetune.evaluation import metrics

    for name in config.evaluation.metrics or []:
        if name not in metrics.names():
            metrics.load(name)
    return ", ".join(config.evaluation.metrics or ["the task's own"])


def _answer_pattern(config: Config) -> str:
    pattern = config.evaluation.generation.answer_pattern
    if pattern is None:
        return "answers are compared whole"
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(
            f"evaluation.generation.answer_pattern={pattern!r} is not a regular expression: {error}"
        ) from None
    if groups < 1:
        raise UserError(f"evaluation.generation.answer_pattern={pattern!r} has no group; write one, as in `#### (.+)`")
    return pattern


def _remote_code(config: Config) -> str:
    return "ON: code of the model's repository will run on this machine" if config.model.trust_remote_code else "off"


EARLY: dict[str, Callable[[Config], str]] = {
    "processes": _processes,
    "environment": _environment,
    "output-folder": _output_folder,
    "quantization": _quantization,
    "resume": _resume,
    "tracking": _tracking,
    "publishing": _publishing,
    "metrics": _metrics,
    "answer-pattern": _answer_pattern,
    "remote-code": _remote_code,
}


# What the prepared rows decide


def _rows(prepared: Prepared, split: str) -> str:
    account = prepared.report[split]
    return f"{account['read']} read, {account['kept']} kept"


def _trained_tokens(found: Found) -> str:
    notes = found.prepared.report["train"]["notes"]
    trained = notes.get("trained tokens")
    if trained is None:
        return "one label a row"
    return f"{trained} of {notes['tokens']} ({trained / notes['tokens']:.0%})"


def _best_model(found: Found) -> str:
    """The metric that names the best model must be one that the evaluation gives."""
    name = str(found.config.trainer.get("metric_for_best_model") or "loss").removeprefix("eval_")
    wanted = found.config.evaluation.metrics
    known = ["loss", *(found.config.task.metrics(found.prepared.facts) if wanted is None else wanted)]
    known = list(found.config.task.summarize(dict.fromkeys(known, 0.0)))
    if name not in known:
        hint = did_you_mean(name, known) or f"Metrics: {', '.join(known)}"
        raise UserError(f"trainer.metric_for_best_model={name} is not measured. {hint}")
    return name if found.config.trainer.get("load_best_model_at_end") else "the last model is kept"


def _step(found: Found) -> str:
    batches = found.batches
    if batches.rows < batches.global_batch:
        return f"it takes {batches.global_batch} rows and there are {batches.rows}: each one sees all of them"
    left = batches.rows % batches.global_batch
    return f"the last of an epoch has {left} rows" if left else "every one is full"


def _memory(found: Found) -> str:
    """The estimate against what the device has; where it does not fit, the cheapest changes that make it."""
    costs = found.costs
    needed = f"{costs.needed / GIB:.1f} GiB needed"
    if costs.available is None:
        return f"{needed}; no accelerator is present or asked for (plan.device=h200)"
    has = f"{costs.device} has {costs.available / GIB:.1f}"
    if costs.needed <= costs.available:
        return f"{needed}, {has}"
    ways = "".join(
        f"\n    {' '.join(change['overrides'])}  ({change['needed'] / GIB:.1f} GiB; {change['cost']})"
        for change in costs.changes
    )
    raise UserError(f"{needed} at the {costs.peak_moment}, {has}. " + (f"What fits:{ways}" if ways else NOTHING_FITS))


def _disk(found: Found) -> str:
    disk = found.costs.disk
    needed = disk["checkpoint"] * disk["kept"] + disk["model"]
    has = f"{disk['free'] / GIB:.1f} GiB are free in {found.config.output_dir}"
    if needed > disk["free"]:
        raise UserError(
            f"{needed / GIB:.1f} GiB needed, {has}. Write a smaller trainer.save_total_limit, or another output_dir"
        )
    return f"{needed / GIB:.2f} GiB needed, {has}"


LATE: dict[str, Callable[[Found], str]] = {
    "trained-tokens": _trained_tokens,
    "best-model": _best_model,
    "step": _step,
    "memory": _memory,
    "disk": _disk,
}
