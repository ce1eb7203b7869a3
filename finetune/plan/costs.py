"""What a run costs on the device it is meant for: memory by part and moment, what would make it fit, disk, time.

Knows the plan's numbers and hands them to the estimates; counts nothing itself. What is counted is kept for the same
architecture and sizes; what the machine has free is looked up each time.
"""

from dataclasses import asdict, dataclass
from typing import Any

from finetune.config.cache import digest, kept
from finetune.config.launch import LaunchConfig
from finetune.config.schema import Config
from finetune.data.prepare import Prepared
from finetune.estimate import devices, disk, duration
from finetune.estimate.devices import Device
from finetune.estimate.setup import Loss, Setup, Shapes
from finetune.models import processes
from finetune.models.precision import Precision
from finetune.plan import parallel
from finetune.plan.batches import Batches
from finetune.plan.skeletons import Skeletons

# Raised when what is counted, or how, changes.
VERSION = 5
PROCESSOR, NODE = "this processor", "a node of the job"


@dataclass(frozen=True)
class Costs:
    """Estimates, as plain values: bytes and seconds."""

    device: str
    available: int | None
    """Bytes of the device, or a process's share of the machine's memory; None where neither is known."""
    moments: dict[str, dict[str, int]]
    """Moment of a step to the bytes of each part that is alive in it."""
    reserve: int
    notes: list[str]
    changes: list[dict[str, Any]]
    """The cheapest ones that make it fit, where it does not."""
    disk: dict[str, int]
    duration: dict[str, Any] | None
    shape: str
    """The name under which the measured throughput of such runs is kept."""

    @property
    def needed(self) -> int:
        """Bytes the device must have free."""
        return max(sum(parts.values()) for parts in self.moments.values()) + self.reserve

    @property
    def peak_moment(self) -> str:
        """When the most is needed."""
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))


@dataclass(frozen=True)
class Run:
    """What the costs of a run follow from."""

    config: Config
    prepared: Prepared
    precision: Precision
    batches: Batches
    arguments: dict[str, Any]
    """Of the trainer, with the library's defaults."""
    fresh: tuple[str, ...]
    """Heads that the base does not bring."""


def costs(run: Run) -> Costs:
    """Every estimate.

    Raises:
        UserError: `plan.device` names no known device.
    """
    device = _device(run.config)
    setup = setup_of(run, device)
    available = _available(run.config.launch, device)
    task = asdict(run.config.task)
    inputs = [VERSION, run.prepared.architecture, run.config.task.model_class, task, run.config.adapter,
              asdict(setup), run.batches.global_batch, run.config.model.attn_implementation, available]  # fmt: skip
    counted = kept(f"costs-{digest(inputs)}", lambda: _counted(run, setup, available), _is_counted)
    limit = run.config.trainer.get("save_total_limit")
    fewest = run.batches.checkpoints if limit is None else min(run.batches.checkpoints, limit + 1)
    space = {**counted["disk"], "kept": fewest, "free": disk.free(run.config.output_dir)}
    shape = duration.shape(inputs=inputs[:-1], device=device.name if device else "cpu")
    time = duration.duration(_work(run, setup, counted), run.batches.ranks, device, shape, run.config.plan.throughput)
    return Costs(
        device=device.name if device else NODE if run.config.launch.is_job else PROCESSOR,
        available=available,
        moments=counted["moments"],
        reserve=counted["reserve"],
        notes=[*counted["notes"], *parallel.notes(run.config)],
        changes=counted["changes"],
        disk=space,
        duration=asdict(time) if time else None,
        shape=shape,
    )


def _device(config: Config) -> Device | None:
    """The one asked for, else the one that is here; of the GPUs of a job nothing is known until they are named."""
    if config.plan.device:
        return devices.find(config.plan.device)
    if not config.launch.is_job:
        return devices.present()
    return Device("the GPUs of the job", 0.0, 0.0, 0.0, "") if config.launch.gpus else None


def _available(launch: LaunchConfig, device: Device | None) -> int | None:
    """Bytes that a process may use: of its device, or its share of the machine's where it trains on a processor."""
    if device:
        return device.memory if device.gib else None
    whole = int((launch.mebibytes or 0) * 2**20) if launch.is_job else devices.host()
    return whole * launch.nodes // processes.ranks(launch) or None


def setup_of(run: Run, device: Device | None) -> Setup:
    """One device's share of the run."""
    notes = run.prepared.report["train"]["notes"]
    given = run.arguments
    return Setup(
        rows=run.batches.per_device,
        length=run.prepared.longest("train"),
        sequences=run.prepared.rows("train").sequences,
        reference=run.config.task.compares and not given.get("precompute_ref_log_probs"),
        target=run.prepared.report["train"]["audit"].get("targets", {}).get("longest"),
        compute=_compute(run, device),
        trainable=run.precision.trainable,
        frozen=run.precision.frozen,
        quantization=run.config.quantization,
        optim=str(given["optim"]),
        optim_args=str(given.get("optim_args") or ""),
        checkpointing=bool(given.get("activation_checkpointing")),
        accumulation=run.batches.accumulation,
        loss=_loss(run),
        trained_tokens=notes.get("trained tokens", notes["tokens"]) / max(notes["tokens"], 1),
        scored_rows=run.config.scored_rows,
        scored_length=run.prepared.longest("validation"),
        attention=run.config.model.attn_implementation or "sdpa",
        device=device.kind if device else "cpu",
        shapes=_shapes(run),
        shards=parallel.shards(run.config, run.batches.ranks),
    )


def _compute(run: Run, device: Device | None) -> str:
    """auto is resolved for the device asked for, which need not be here."""
    if run.config.precision.compute == "auto" and run.config.plan.device and device:
        return "bf16" if device.bf16 else "fp32"
    return run.precision.compute


def _loss(run: Run) -> Loss:
    """How the logits of a whole vocabulary are spared, if at all; TRL's trainers smooth labels with all of them."""
    if run.config.task.chunked:
        is_smoothed = run.arguments.get("loss_type") == "nll" and run.arguments.get("label_smoothing_factor")
        return "logits" if is_smoothed else "chunked"
    return "liger" if run.arguments.get("use_liger_kernel") else "logits"


def _is_counted(found: Any) -> bool:
    return isinstance(found, dict) and found.keys() == {"moments", "reserve", "notes", "changes", "disk", "work"}


def _counted(run: Run, setup: Setup, available: int | None) -> dict[str, Any]:
    """Everything that needs a skeleton."""
    from finetune.estimate import memory

    skeletons = Skeletons(run.config, run.prepared, run.fresh)
    found = memory.estimate(skeletons.own, setup)
    space = disk.disk(skeletons.own, setup, 0, 0, run.config.output_dir)
    fits = available is None or found.needed <= available
    return {
        "moments": found.moments,
        "reserve": found.reserve,
        "notes": list(found.notes),
        "changes": [] if fits else _changes(run, setup, skeletons, int(available or 0)),
        "disk": {"checkpoint": space.checkpoint, "model": space.model},
        "work": _products(skeletons.own),
    }


def _shapes(run: Run) -> Shapes | None:
    """Of what the model is given for its longest row, where that does not follow from the length of it."""
    task, rows = run.config.task, run.prepared.rows("train")
    if not task.media:
        return None

    def found() -> dict[str, Any]:
        longest = [int(rows.lengths.argmax())]
        batch = task.collator(run.prepared.tokenizer)(rows.__getitems__(longest))
        return {
            name: [list(value.shape[1:]), str(value.dtype).removeprefix("torch.")] for name, value in batch.items()
        }

    kept_under = f"shapes-{digest([VERSION, run.prepared.folder.name])}"
    made: dict[str, Any] = kept(kept_under, found, lambda each: isinstance(each, dict))
    return {name: (tuple(shape), kind) for name, (shape, kind) in made.items()}


def _changes(run: Run, setup: Setup, skeletons: Skeletons, available: int) -> list[dict[str, Any]]:
    from finetune.estimate.changes import Situation, changes

    situation = Situation(setup, run.config.adapter["method"], skeletons.of_option, run.batches.global_batch)
    return [
        {"overrides": list(each.overrides), "cost": each.cost, "needed": each.estimate.needed}
        for each in changes(situation, available)
    ]


def _products(adapted: Any) -> dict[str, int]:
    """The weights that a token is multiplied by: no input embeddings, and of experts those that are chosen."""
    embedded = {id(module.weight) for module in adapted.modules() if type(module).__name__ == "Embedding"}
    matrices = {name: each for name, each in adapted.named_parameters() if each.ndim > 1 and id(each) not in embedded}
    config = adapted.config.get_text_config()
    chosen = _share_of_experts(config)
    used = {name: each.numel() * (chosen if "experts" in name else 1.0) for name, each in matrices.items()}
    return {
        "matmul": int(sum(used.values())),
        "trained": int(sum(count for name, count in used.items() if matrices[name].requires_grad)),
        "layers": int(getattr(config, "num_hidden_layers", 0) or 0),
        "hidden": int(getattr(config, "hidden_size", 0) or 0),
    }


def _share_of_experts(config: Any) -> float:
    experts = next((getattr(config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts")
                    if getattr(config, name, None)), None)  # fmt: skip
    return min(1.0, (getattr(config, "num_experts_per_tok", None) or experts) / experts) if experts else 1.0


def _work(run: Run, setup: Setup, counted: dict[str, Any]) -> duration.Work:
    """What there is to compute in all steps."""
    step = tokens_of_step(run.prepared.report, run.batches)
    tokens, length = int(step * run.batches.total_steps), step / run.batches.global_batch
    unit = run.config.task.unit
    return duration.Work(tokens=tokens, length=length, checkpointing=setup.checkpointing, unit=unit, **counted["work"])


def tokens_of_step(report: dict[str, Any], batches: Batches) -> float:
    """Mean tokens of a step, over all ranks."""
    return float(report["train"]["tokens"] / max(batches.rows, 1) * batches.global_batch)
