"""What the config and the machine decide before data is touched. Each check passes with a detail, or raises."""

import importlib.util
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from finetune.config.launch import LOCAL, LaunchConfig
from finetune.config.schema import Config
from finetune.errors import MachineError, MissingExtra, UserError
from finetune.models import processes, quantization
from finetune.models.source import hub_id
from finetune.plan import environment, parallel
from finetune.plan.catalogue import Check, looked_at
from finetune.plan.run_folder import check_writable

OVERRIDING = ("ACCELERATE_", "FSDP_")
"""Variables that accelerate reads before any argument."""
WAIVABLE = ("environment", "memory", "disk")


def early(config: Config) -> list[Check]:
    """What the config and the machine decide; looked at before data is touched."""
    looks = [(name, partial(look, config)) for name, look in EARLY.items()]
    return list(looked_at(looks, config.plan.waive, WAIVABLE))


def _output_folder(config: Config) -> str:
    check_writable(config.output_dir)
    return f"{config.output_dir} can be written"


def _processes(config: Config) -> str:
    launch, seen = config.launch, processes.accelerators()
    if launch.method == LOCAL:
        idle = environment.idle_gpus()
        return f"1; {idle} more GPUs stay idle: launch=torchrun uses them" if idle else "1"
    each = processes.ranks_a_node(launch)
    if launch.is_job:
        return _of_a_job(launch, each)
    if seen and each > seen:
        raise MachineError(
            f"launch.nproc_per_node={each}, and this machine has {seen} accelerators. Write launch.nproc_per_node=auto"
        )
    on = "accelerators" if seen else "the processor, over gloo"
    return f"{processes.ranks(launch)} on {on}, on {launch.nodes} machines" if launch.nodes > 1 else f"{each} on {on}"


def _of_a_job(launch: LaunchConfig, each: int) -> str:
    """Processes of a node, against what is asked for it."""
    if launch.gpus and each > launch.gpus:
        raise UserError(
            f"launch.nproc_per_node={each}, and launch.gpus_per_node={launch.gpus_per_node}. Leave nproc_per_node out"
        )
    if launch.setup and not Path(launch.setup).expanduser().is_file():
        raise UserError(f"launch.setup={launch.setup}: there is no such file")
    on = "GPUs" if launch.gpus else "processors"
    return f"{launch.nodes} nodes x {each} on {on}, as a job of {launch.method}"


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

    for name in [*(config.evaluation.metrics or []), *(config.evaluation.generation.metrics or [])]:
        metrics.check(name)
    if of_texts := next(filter(metrics.of_texts, config.evaluation.metrics or []), None):
        raise UserError(
            f"evaluation.metrics=[{of_texts}]: it compares texts, and a head predicts none. Write "
            f"evaluation.generation.metrics=[{of_texts}]"
        )
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
    "parallel": parallel.check,
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
