"""The plan: everything decided before the first step, from the config and the prepared rows."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

from finetune.config import cache, check, options
from finetune.config.schema import Config
from finetune.config.task import Facts
from finetune.data.prepare import Prepared
from finetune.errors import FinetuneError, UserError
from finetune.models import precision, processes
from finetune.models.precision import Multiplier, Precision
from finetune.models.source import Source
from finetune.plan import batches, environment, limits, parallel
from finetune.plan.batches import Batches, Every, Schedule
from finetune.plan.catalogue import Check, refuse_failed
from finetune.plan.costs import Costs, Run, costs
from finetune.plan.summary import ModelSummary, summary

Value = TypeVar("Value")


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
    costs: Costs
    environment: dict[str, Any]
    checks: list[Check]
    notes: list[str]
    """What was written and is idle, because something written later decides."""

    @property
    def evaluation_batch_size(self) -> int:
        """Rows scored at once on a device."""
        return self.config.scored_rows or self.batches.per_device


def make(config: Config, prepared: Prepared, early: list[Check], notes: Sequence[str] = ()) -> Plan:
    """Close the plan.

    Args:
        early: what was looked at before data was touched.
        notes: what was written and is idle, because something written later decides.
    Raises:
        PlanError: something cannot work as configured; all that is known of is told.
    """
    closing = Closing()
    chosen = closing.value("precision", lambda: precision.resolve(config.precision, config.model.dtype, _on(config)))
    sizes = closing.value("batches", lambda: _batches(config, prepared))
    found = closing.value("model", lambda: summary(config, prepared))
    closing.value("parallel", lambda: parallel.check_model(config, found) if found else None)
    arguments = closing.value("trainer", lambda: _arguments(config, chosen, sizes) if chosen and sizes else {})
    known = partial(Run, config, prepared, chosen, sizes, _defaults(config) | (arguments or {}))
    spent = closing.value("costs", lambda: costs(known(tuple(found.fresh))) if found and arguments else None)
    refuse_failed(closing.failed)
    return Plan(
        config=config,
        source=prepared.source,
        rows=str(prepared.folder),
        facts=prepared.facts,
        max_length=prepared.max_length,
        report=prepared.report,
        precision=chosen,
        batches=sizes,
        arguments=arguments,
        model=found,
        environment=environment.describe(config.launch),
        costs=spent,
        checks=[*early, *limits.late(config, prepared, sizes, spent)],
        notes=list(notes),
    )


@dataclass
class Closing:
    """Parts of a plan that are made one after the other; what one of them refuses does not hide the next."""

    failed: list[Check] = field(default_factory=list)

    def value(self, name: str, make: Callable[[], Value]) -> Any:
        """What `make` gives, or None, and the failure kept under `name`."""
        try:
            return make()
        except FinetuneError as error:
            self.failed.append(Check(name, "failed", str(error), error.exit_code))
            return None


def as_json(plan: Plan) -> dict[str, Any]:
    """Plain values; `from_json` gives the plan back."""
    values = {name: value for name, value in vars(plan).items() if name != "config"}
    plain = {name: asdict(v) if hasattr(v, "__dataclass_fields__") else v for name, v in values.items()}
    return {"config": check.dump(plan.config), **plain, "checks": [asdict(item) for item in plan.checks]}


def from_json(values: dict[str, Any]) -> Plan:
    """A plan from what `as_json` gave."""
    typed = {"source": Source, "precision": Precision, "batches": Batches, "model": ModelSummary, "costs": Costs}
    parts = {name: kind(**values[name]) for name, kind in typed.items()}
    config = check.read(values["config"])
    return Plan(**{**values, **parts, "config": config, "checks": [Check(**item) for item in values["checks"]]})


def _batches(config: Config, prepared: Prepared) -> Batches:
    given = _defaults(config) | config.trainer
    ranks, per_device = processes.ranks(config.launch), int(given["per_device_train_batch_size"])
    wanted = config.trainer.get("gradient_accumulation_steps")
    accumulation = batches.accumulation(config.global_batch_size, per_device, ranks, wanted)
    schedule = Schedule(
        float(given["num_train_epochs"]),
        int(given["max_steps"]),
        float(given["warmup_steps"] or 0),
        Every(str(given["eval_strategy"]), given["eval_steps"] or given["logging_steps"]),
        Every(str(given["save_strategy"]), given["save_steps"]),
    )
    step = ranks * per_device * accumulation
    rows = batches.taken(prepared.report["train"]["rows"], step, bool(given["dataloader_drop_last"]))
    return batches.batches(rows, ranks, per_device, accumulation, schedule)


def _defaults(config: Config) -> dict[str, Any]:
    return {name: option.default for name, option in options.of(config.task.arguments_class).items()}


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
        "use_cpu": _on(config).kind == "cpu",
        # Some arguments classes begin with true.
        "activation_checkpointing": bool(config.trainer.get("activation_checkpointing")),
    }
    arguments = {**config.trainer, **config.task.trainer_options, **decided}
    # Those of a job are for a device that need not be here.
    asked = arguments | {"use_cpu": True, "fp16": False} if config.launch.is_job else arguments
    _check_accepted(config.task.arguments_class, asked)
    # Ours, and asked about by nobody before the ranks are there: they would set variables and wait for them.
    return arguments | parallel.arguments(config)


def _on(config: Config) -> Multiplier:
    return environment.trains_on(config.launch, config.plan.device)


def _check_accepted(class_path: str, arguments: dict[str, Any]) -> None:
    """Refuse what the arguments class itself refuses; asking it imports the trainer, so its consent is kept.

    Raises:
        UserError: in the library's words.
    """

    def ask() -> dict[str, Any]:
        try:
            options.resolve(class_path)(output_dir="unused", **arguments)
        except (ValueError, TypeError) as error:
            raise UserError(f"trainer: {error}") from None
        return {"accepted": True}

    inputs = [class_path, arguments, environment.device_name()]
    cache.kept(f"accepted-{cache.digest(inputs)}", ask, lambda found: found == {"accepted": True})
