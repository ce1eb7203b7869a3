"""A recipe's config to the config of its rehearsal, and a list of everything that was replaced.

The only module that knows what a rehearsal leaves out. Knows neither how rows are found nor how models are built.
"""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.config.data import DatasetConfig
from finetune.config.launch import LaunchConfig
from finetune.config.parallel import ParallelConfig
from finetune.config.schema import Config, PublishConfig, TrackingConfig
from finetune.models import quantization

STEPS, ROWS, ANSWERED, NEW_TOKENS = 2, 2, 2, 8
LENGTH = {
    "max_steps": STEPS, "warmup_steps": 0, "logging_steps": 1, "logging_strategy": "steps", "save_steps": 1,
    "save_strategy": "steps", "save_total_limit": None, "per_device_train_batch_size": ROWS,
}  # fmt: skip
RESUME = "resume_from_checkpoint"
"""The option of `trainer` that names the checkpoint a run goes on from."""
OF_LAYERS = ("layers_to_transform", "layers_pattern")
"""Options of `adapter` that choose among layers by number, of which there are few."""
NEEDS_GPU = (
    "tf32", "torch_compile", "torch_compile_backend", "torch_compile_mode", "use_liger_kernel", "deepspeed", "fsdp",
    "fsdp_config",
)  # fmt: skip


@dataclass(frozen=True)
class Replaced:
    """One thing that a rehearsal does otherwise than the run."""

    name: str
    by: str

    def __str__(self) -> str:
        return f"instead of {self.name}: {self.by}"


def shrunk(config: Config, base: Path, data: DatasetConfig, folder: Path) -> tuple[Config, list[Replaced]]:
    """The config of a rehearsal.

    Args:
        base: the folder of the tiny model, and of its tokenizer.
        data: the config of the few rows.
        folder: for the runs.
    """
    trainer, left_out = _trainer(config)
    quantizer, no_quantizer = _quantization(config.quantization)
    small = replace(
        config,
        dataset=data,
        tokenizer=replace(config.tokenizer, path=None, revision=None),
        model=replace(
            config.model, path=str(base), fallback_path=None, fallback_for=None, sha256=None, revision=None, config={},
            trust_remote_code=False, attn_implementation=None,
        ),
        quantization=quantizer,
        adapter={name: value for name, value in config.adapter.items() if name not in OF_LAYERS},
        trainer=trainer,
        evaluation=_evaluation(config),
        tracking=TrackingConfig(),
        publish=PublishConfig(),
        launch=LaunchConfig(),
        parallel=ParallelConfig(),
        plan=replace(config.plan, device=None, throughput=None),
        global_batch_size=None,
        output_dir=str(folder),
        run_folder=None,
    )  # fmt: skip
    return _on_cpu(small, [*left_out, *no_quantizer, *_switched_off(config)])


def _trainer(config: Config) -> tuple[dict[str, Any], list[Replaced]]:
    """Two steps of two rows with a checkpoint after each; accumulating where the recipe does."""
    given = {name: value for name, value in config.trainer.items() if name not in (*NEEDS_GPU, RESUME)}
    if given.get("eval_strategy", "no") != "no":
        given |= {"eval_strategy": "steps", "eval_steps": 1}
    if _accumulates(config):
        given["gradient_accumulation_steps"] = 2
    left_out = [
        Replaced(f"trainer.{name}", "left out: it needs a GPU") for name in config.trainer if name in NEEDS_GPU
    ]
    return given | LENGTH, left_out


def _accumulates(config: Config) -> bool:
    per_device = config.trainer.get("per_device_train_batch_size", 8)
    return config.trainer.get("gradient_accumulation_steps", 1) > 1 or (config.global_batch_size or 0) > per_device


def _quantization(given: dict[str, Any]) -> tuple[dict[str, Any], list[Replaced]]:
    """bitsandbytes works on a processor; other quantizers do not, or need a base that is quantized already."""
    method = given["method"]
    works = method.startswith("bitsandbytes") and importlib.util.find_spec("bitsandbytes") is not None
    if method == quantization.NONE or works:
        return given, []
    return {"method": quantization.NONE}, [Replaced(f"quantization={method}", "none: it does not work here")]


def _evaluation(config: Config) -> Any:
    generation = config.evaluation.generation
    few = replace(
        generation,
        rows=ANSWERED if config.answer_rows is None else min(config.answer_rows, ANSWERED),
        max_new_tokens=min(generation.max_new_tokens or NEW_TOKENS, NEW_TOKENS),
    )
    return replace(config.evaluation, generation=few)


def _switched_off(config: Config) -> list[Replaced]:
    found = [Replaced(f"adapter.{name}", "every layer that is left") for name in OF_LAYERS if config.adapter.get(name)]
    if config.tracking.report_to:
        found.append(Replaced(f"tracking={', '.join(config.tracking.report_to)}", "metrics.jsonl"))
    if config.publish.to != "none":
        found.append(Replaced(f"publish={config.publish.to}", "nothing is uploaded"))
    if config.model.attn_implementation:
        found.append(Replaced(f"model.attn_implementation={config.model.attn_implementation}", "the type's own"))
    return found


def _on_cpu(config: Config, replaced: list[Replaced]) -> tuple[Config, list[Replaced]]:
    """fp16 needs a GPU; everything else computes on a processor as well."""
    if config.precision.compute != "fp16":
        return config, replaced
    by = replace(config, precision=replace(config.precision, compute="auto"))
    return by, [*replaced, Replaced("precision=fp16", "auto: fp16 needs a GPU")]


def resumed(config: Config, checkpoint: Path) -> Config:
    """The same rehearsal, going on from a checkpoint of it."""
    evaluation = replace(config.evaluation, baseline=False)
    return replace(config, trainer={**config.trainer, RESUME: str(checkpoint)}, evaluation=evaluation)
