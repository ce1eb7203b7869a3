"""The plan: everything decided before the first step, from the config and the prepared rows."""

from dataclasses import asdict, dataclass
from typing import Any

from finetune.config import check, options
from finetune.config.schema import Config
from finetune.config.task import Facts
from finetune.data.prepare import Prepared
from finetune.errors import UserError
from finetune.models import adapter, model, precision
from finetune.models.precision import Precision
from finetune.models.source import Source
from finetune.plan import batches, checks, environment
from finetune.plan.batches import Batches, Schedule
from finetune.plan.checks import Check


@dataclass(frozen=True)
class ModelSummary:
    """What is trained of what."""

    architecture: str
    parameters: int
    trainable: int
    adapted: dict[str, int]
    """Name of an adapted module to how many of that name there are."""


@dataclass(frozen=True)
class Plan:
    """One run, frozen: what a rank needs, and what a person wants to know first."""

    config: Config
    source: Source
    rows: str
    """The folder of the prepared rows."""
    facts: Facts
    max_length: int
    report: dict[str, Any]
    precision: Precision
    batches: Batches
    arguments: dict[str, Any]
    """What the arguments class of the task's trainer is given, except the folder."""
    model: ModelSummary
    environment: dict[str, Any]
    checks: list[Check]


def make(config: Config, prepared: Prepared, early: list[Check]) -> Plan:
    """Close the plan.

    Raises:
        UserError: something cannot work as configured.
    """
    chosen = precision.resolve(config.precision, config.model.dtype)
    sizes = _batches(config, prepared)
    return Plan(
        config=config,
        source=prepared.source,
        rows=str(prepared.folder),
        facts=prepared.facts,
        max_length=prepared.max_length,
        report=prepared.report,
        precision=chosen,
        batches=sizes,
        arguments=_arguments(config, chosen, sizes),
        model=_summary(config, prepared),
        environment=environment.describe(),
        checks=[*early, *checks.late(prepared)],
    )


def as_json(plan: Plan) -> dict[str, Any]:
    """Plain values; `from_json` gives the plan back."""
    values = {name: value for name, value in vars(plan).items() if name != "config"}
    plain = {name: asdict(v) if hasattr(v, "__dataclass_fields__") else v for name, v in values.items()}
    return {"config": check.dump(plan.config), **plain, "checks": [asdict(item) for item in plan.checks]}


def from_json(values: dict[str, Any]) -> Plan:
    """A plan from what `as_json` gave."""
    typed = {"source": Source, "precision": Precision, "batches": Batches, "model": ModelSummary}
    parts = {name: kind(**values[name]) for name, kind in typed.items()}
    config = check.read(values["config"])
    return Plan(**{**values, **parts, "config": config, "checks": [Check(**item) for item in values["checks"]]})


def _batches(config: Config, prepared: Prepared) -> Batches:
    given = _defaults(config) | config.trainer
    ranks, per_device = environment.ranks(), int(given["per_device_train_batch_size"])
    wanted = config.trainer.get("gradient_accumulation_steps")
    accumulation = batches.accumulation(config.global_batch_size, per_device, ranks, wanted)
    schedule = Schedule(given["num_train_epochs"], int(given["max_steps"]), float(given["warmup_steps"] or 0))
    return batches.batches(prepared.report["train"]["rows"], ranks, per_device, accumulation, schedule)


def _defaults(config: Config) -> dict[str, Any]:
    import dataclasses

    fields = dataclasses.fields(options.resolve(config.task.arguments_class))
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def _arguments(config: Config, chosen: Precision, sizes: Batches) -> dict[str, Any]:
    decided = {
        "seed": config.seed,
        "bf16": chosen.compute == "bf16",
        "fp16": chosen.compute == "fp16",
        "gradient_accumulation_steps": sizes.accumulation,
        "report_to": config.tracking.report_to or "none",
        "run_name": config.trainer.get("run_name", config.name),
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": precision.device().type == "cpu",
    }
    arguments = {**config.trainer, **config.task.trainer_options, **decided, **_checkpointing(config)}
    try:
        options.resolve(config.task.arguments_class)(output_dir="unused", **arguments)
    except (ValueError, TypeError) as error:
        raise UserError(f"trainer: {error}") from None
    return arguments


def _checkpointing(config: Config) -> dict[str, Any]:
    """Off for the adapters it would break; some arguments classes have it on."""
    if config.adapter["method"] not in adapter.USES_CACHE:
        return {}
    if config.trainer.get("activation_checkpointing"):
        raise UserError(f"trainer.activation_checkpointing does not work with adapter={config.adapter['method']}")
    return {"activation_checkpointing": False}


def _summary(config: Config, prepared: Prepared) -> ModelSummary:
    """Count on a skeleton: names and shapes without weights."""
    bare = model.skeleton(prepared.model_config, config.task, config.model.trust_remote_code)
    total = sum(parameter.numel() for parameter in bare.parameters())
    name = type(bare).__name__
    adapted = adapter.apply(bare, config.adapter, config.task.peft_type, ())
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    return ModelSummary(name, total, trainable, _adapted(adapted))


def _adapted(adapted: Any) -> dict[str, int]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, int] = {}
    for name, module in adapted.named_modules():
        if isinstance(module, BaseTunerLayer):
            leaf = name.rpartition(".")[2]
            found[leaf] = found.get(leaf, 0) + 1
    return found
