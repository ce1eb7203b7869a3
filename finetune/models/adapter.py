"""Parameter-efficient fine-tuning: every PEFT method, by its own name and options."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from transformers import PreTrainedModel

from finetune.config import options
from finetune.config.suggest import did_you_mean
from finetune.errors import FinetuneError, UserError
from finetune.models.model import POOLER
from finetune.models.modules import core
from finetune.models.sharded import fill, whole

FULL = "full"
COPY = "ref"
FEATURES = "FEATURE_EXTRACTION"
"""The type of models whose vectors are read before any head."""
# What AdaLoRA's allocator has learned of its ranks.
IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def apply(model: PreTrainedModel, adapter: dict[str, Any], peft_type: str | None, fresh: tuple[str, ...]) -> Any:
    """The model with its adapter; freshly made modules stay trainable and are saved with it.

    Raises:
        UserError: a target names no module of the model.
    """
    if adapter["method"] == FULL:
        return model
    try:
        config = build(model, adapter, peft_type, fresh)
        if peft_type == FEATURES and config.is_prompt_learning:
            raise ValueError("it puts tokens before those of the text, whose vectors are read")
        if peft_type is None and config.is_prompt_learning:
            raise ValueError("PEFT puts no learned prompt before rows of this task. Write adapter=lora")
        return get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise UserError(f"adapter={adapter['method']} does not fit {type(model).__name__}: {error}") from None


def build(
    model: PreTrainedModel, adapter: dict[str, Any], peft_type: str | None, fresh: tuple[str, ...]
) -> PeftConfig:
    """The library's config object for a method and this model."""
    given = {name: value for name, value in adapter.items() if name != "method"}
    config = options.resolve(options.methods("adapter")[adapter["method"]])(**{"task_type": peft_type, **given})
    _check_targets(model, given.get("target_modules"))
    if fresh and hasattr(config, "modules_to_save"):
        config.modules_to_save = sorted({*(config.modules_to_save or []), *fresh})
    # A module cannot be both adapted and trained whole.
    left = [*fresh, *([POOLER] if peft_type == FEATURES else [])]
    if left and hasattr(config, "exclude_modules") and config.exclude_modules is None:
        config.exclude_modules = rf"(.*\.)?({'|'.join(map(re.escape, left))})(\..*)?"
    return config


def prepare_quantized(model: PreTrainedModel, checkpointing: bool) -> PreTrainedModel:
    """Norms and embeddings in fp32 and, where asked, inputs that carry gradients."""
    prepared: PreTrainedModel = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    return prepared


def cast_trainable(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Trained weights in `dtype`, whatever the frozen ones are in."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def scored(model: Any) -> Any:
    """What computes the loss of the task alone: AdaLoRA's wrapper adds a term of its own to it."""
    return model.get_base_model() if isinstance(model, PeftModel) and moves_ranks(model) else model


def moves_ranks(model: Any) -> bool:
    """Whether the adapter moves ranks between layers while it is trained."""
    return hasattr(getattr(core(model), "base_model", None), "update_and_allocate")


def learns_prompt(model: Any) -> bool:
    """Whether the adapter puts something learned before each row."""
    adapted = core(model)
    return is_adapted(adapted) and bool(adapted.active_peft_config.is_prompt_learning)


@contextmanager
def switched_off(model: Any) -> Iterator[Any]:
    """The model as it is without its adapter."""
    adapted = core(model)
    if learns_prompt(adapted):
        yield adapted.get_base_model()
        return
    with adapted.disable_adapter():
        yield scored(model)


def drop_copy(model: Any) -> None:
    """Drop the copy of a fresh adapter that TRL makes as a reference: switched off, the adapter is one."""
    adapted = core(model)
    if is_adapted(adapted) and COPY in adapted.peft_config:
        adapted.delete_adapter(COPY)


def load(base: PreTrainedModel, folder: str) -> Any:
    """A saved adapter on its base."""
    return PeftModel.from_pretrained(base, folder)


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that training changes, whole; of shares, on every process at once."""
    return {name: whole(value) for name, value in model.named_parameters() if value.requires_grad}


def state(model: Any, weights: dict[str, torch.Tensor] | None = None) -> dict[str, Any]:
    """All that training changes, for a checkpoint: PEFT's own file keeps what inference needs, which is less.

    Args:
        weights: those that are `trained`, where they were put together before.
    """
    adapted = core(model)
    allocator = adapted.base_model.rankallocator if moves_ranks(adapted) else None
    return {
        "weights": trained(model) if weights is None else weights,
        "importance": {name: getattr(allocator, name) for name in IMPORTANCE} if allocator else {},
        "rank_pattern": getattr(adapted.active_peft_config, "rank_pattern", None),
    }


def restore(model: Any, kept: dict[str, Any]) -> None:
    """Put `state` back, bit for bit.

    Raises:
        UserError: it is of an adapter of another shape.
    """
    own = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if {name: value.shape for name, value in own.items()} != {n: v.shape for n, v in kept["weights"].items()}:
        raise UserError("the checkpoint is of an adapter with other weights than this one has")
    for name, value in kept["weights"].items():
        fill(own[name], value)
    for name, values in kept["importance"].items():
        moved = {key: value.to(model.device) for key, value in values.items()}
        setattr(core(model).base_model.rankallocator, name, moved)
    if kept["importance"]:
        core(model).active_peft_config.rank_pattern = kept["rank_pattern"]


def save(model: PeftModel, folder: str, **options: Any) -> None:
    """PEFT's own files.

    Trained embeddings are saved as modules: by "auto" PEFT asks the Hub for the base's vocabulary. AdaLoRA takes all
    ranks from some layers, and PEFT warns that those were not gathered from other processes.
    """
    with warnings.catch_warnings():
        if moves_ranks(model):
            warnings.filterwarnings("ignore", message="(?s).*have invalid shape")
        model.save_pretrained(folder, save_embedding_layers=False, **options)
    if options.get("is_main_process", True) and not moves_ranks(model):
        check_saved(Path(folder))


def check_saved(folder: Path) -> None:
    """Open what was written: an adapter whose weights were shared out may be saved as a name and no number.

    Raises:
        FinetuneError: there is no weight, or one is empty.
    """
    file = folder / SAFETENSORS_WEIGHTS_NAME
    if not file.is_file():
        raise FinetuneError(f"{file} was not written")
    with safe_open(file, "pt") as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    if empty := sorted(name for name, shape in shapes.items() if 0 in shape):
        raise FinetuneError(f"{file.name} has {len(empty)} weights without a number, first {empty[0]}")
    if not shapes:
        raise FinetuneError(f"{file.name} has no weight")


def is_adapted(model: Any) -> bool:
    """Whether the model carries an adapter."""
    return isinstance(core(model), PeftModel)


def _check_targets(model: PreTrainedModel, targets: Any) -> None:
    """Every pattern of a list must name something: PEFT is content when one of them does."""
    if not isinstance(targets, list):
        return
    names = [name for name, module in model.named_modules() if name and not list(module.children())]
    leaves = sorted({name.rpartition(".")[2] for name in names})
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name, _ in model.named_modules()):
            hint = did_you_mean(str(target), leaves)
            raise UserError(
                f"adapter.target_modules: {target} names no module of {type(model).__name__}. "
                f"Modules: {', '.join(leaves)}. {hint}".rstrip()
            )
