"""What makes a run this run: all that a checkpoint's weights and optimizer depend on. Knows plans, no checkpoints.

A run that goes on must agree with what it began with. The trainer's arguments are a closed world here as well: one
that is not listed as harmless is part of the identity, also one that a later version of the libraries brings.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.config import options
from finetune.config.suggest import did_you_mean
from finetune.data import index, store
from finetune.errors import UserError
from finetune.plan.plan import Plan

HARMLESS = frozenset({
    "output_dir", "disable_tqdm", "report_to", "run_name", "project", "resume_from_checkpoint", "push_to_hub",
    "hub_always_push", "log_level", "log_level_replica", "log_on_each_node", "logging_strategy", "logging_steps",
    "logging_first_step", "logging_nan_inf_filter", "include_num_input_tokens_seen", "skip_memory_metrics", "debug",
    "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size",
    "eval_accumulation_steps", "save_strategy", "save_steps", "save_total_limit", "torch_empty_cache_steps", "use_cpu",
    "ddp_timeout", "ddp_bucket_cap_mb", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
    "dataloader_in_order", "per_device_train_batch_size", "gradient_accumulation_steps", "hub_private_repo",
    "hub_model_id", "hub_strategy", "hub_revision", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id", "do_train", "do_eval", "do_predict", "local_rank", "save_on_each_node",
})  # fmt: skip
"""Arguments that decide how a run is watched and cut, not what it learns."""
CLOSED = frozenset({
    "seed", "num_train_epochs", "max_steps", "warmup_steps", "bf16", "fp16", "hub_token", "fsdp", "fsdp_config",
    "deepspeed", "ddp_backend",
})  # fmt: skip
"""Arguments that other fields of the identity stand for, and one that is kept nowhere."""
NOT_COMPARED = frozenset(f"trainer.{name}" for name in HARMLESS | CLOSED)
BESIDE = ("evaluation", "guards", "checkpoint", "tracking", "publish")
"""Groups of keys that decide what happens beside the steps."""
ROWS, WRITTEN = "data.rows.train", ("dataset", "task", "tokenizer", "packing")
"""The rows themselves, and the groups of keys that they are made by."""
LONGEST = 80
SAMPLES, SAMPLE = 64, 1 << 16


@dataclasses.dataclass(frozen=True)
class Change:
    """A field that differs."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.old} → {self.new}"


def of(plan: Plan) -> dict[str, Any]:
    """The identity: field to a plain value, dotted as a user writes it where there is such a key."""
    config = plan.config
    arguments = {name: value for name, value in _arguments(plan).items() if name not in HARMLESS | CLOSED}
    return {
        **_rows(plan),
        **_flat("adapter", config.adapter),
        **_flat("quantization", config.quantization),
        **_flat("model.config", config.model.config),
        "model.architecture": plan.model.architecture,
        "model.weights": weights(plan.source.path, plan.source.revision),
        "model.attn_implementation": config.model.attn_implementation,
        "precision.compute": plan.precision.compute,
        "precision.trainable": plan.precision.trainable,
        "model.dtype": plan.precision.frozen,
        "global_batch_size": plan.batches.global_batch,
        "total_steps": plan.batches.total_steps,
        "warmup_steps": plan.batches.warmup_steps,
        **{f"seeds.{name}": value for name, value in seeds(plan).items()},
        **_flat("trainer", arguments),
        # Whole copies are one way, by whatever name and in however many processes.
        **({"parallel.method": config.parallel.method} if config.parallel.is_sharded else {}),
    }


def circumstances(plan: Plan) -> dict[str, Any]:
    """What may change, and is said when it does."""
    arguments = {name: value for name, value in _arguments(plan).items() if name in HARMLESS - {"output_dir"}}
    machine = {name: plan.environment[name] for name in ("device", "ranks", "versions")}
    beside = {name: dataclasses.asdict(getattr(plan.config, name)) for name in BESIDE}
    every = {"trainer": arguments, "machine": machine, **beside}
    return {field: value for name, part in every.items() for field, value in _flat(name, part).items()
            if field != "checkpoint.accept"}  # fmt: skip


def seeds(plan: Plan) -> dict[str, int]:
    """The seed of each purpose."""
    given, whole = plan.config.seeds, plan.config.seed
    return {name: whole if value is None else value for name, value in vars(given).items()}


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Every field that differs, by name; how a data set is written is none while the rows trained on are the same."""
    differing = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    counts = [name for name in differing if ROWS in differing or not name.startswith("dataset.")]
    return [Change(name, old.get(name), new.get(name)) for name in counts]


def check(old: dict[str, Any], new: dict[str, Any], accepted: list[str], what: str) -> list[Change]:
    """The changes, all of them accepted.

    Raises:
        UserError: some are not, or what is accepted is no field.
    """
    # A version before may have held against a run what this one does not.
    found = changes({name: value for name, value in old.items() if name not in NOT_COMPARED}, new)
    if unknown := next((name for name in accepted if name not in {*old, *new}), None):
        raise UserError(f"checkpoint.accept=[{unknown}]: no such field of a run. {_meant(unknown, [*old, *new])}")
    refused = [change for change in found if change.field not in accepted]
    if refused:
        names = ",".join(change.field for change in [*found])
        raise UserError(
            f"{what} began with something else than is configured now:\n"
            + "\n".join(f"  {change}" for change in refused)
            + f"\n  Write the old value again, or accept the new one: checkpoint.accept=[{names}]"
        )
    return found


def _meant(word: str, fields: list[str]) -> str:
    """The field whose last part it is, or the nearest one."""
    ending = next((name for name in fields if name.endswith(f".{word}")), None)
    guess = f"Did you mean {ending}?" if ending else did_you_mean(word, fields)
    return guess or "What differs is named where a run is refused"


def weights(path: str, revision: str | None) -> str:
    """A commit of the Hub; of a folder, a hash of the sizes of its weights and of samples of their bytes.

    Samples are spread evenly: another training of the same shape differs in nearly all of them.
    """
    if not Path(path).is_dir():
        return f"{path}@{revision}"
    digest = hashlib.sha256()
    for file in sorted(each for each in Path(path).iterdir() if each.suffix in (".safetensors", ".bin", ".gguf")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            for at in sorted({size * part // SAMPLES for part in range(SAMPLES)}):
                stream.seek(at)
                digest.update(stream.read(SAMPLE))
    return digest.hexdigest()[:16]


def _arguments(plan: Plan) -> dict[str, Any]:
    """The arguments as the trainer will have them: what is not written is the library's default."""
    known = options.of(plan.config.task.arguments_class)
    return {name: option.default for name, option in known.items()} | plan.arguments


def _rows(plan: Plan) -> dict[str, Any]:
    """The rows trained on, and what was written to make them."""
    folder = Path(plan.rows)
    written = json.loads((folder / store.INPUTS).read_text(encoding="utf-8"))
    named = {name: value for group in WRITTEN for name, value in _flat(group, written[group]).items()}
    return {ROWS: index.digest(folder, "train"), **named}


def _flat(name: str, value: Any) -> dict[str, Any]:
    return dict(_leaves(name, value))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(f"{name}.{key}", part)
        return
    plain = json.loads(json.dumps(value, default=lambda each: getattr(each, "value", None) or str(each)))
    text = json.dumps(plain, sort_keys=True)
    yield name, plain if len(text) <= LONGEST else f"#{hashlib.sha256(text.encode()).hexdigest()[:16]}"
