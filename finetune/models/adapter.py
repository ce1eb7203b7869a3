"""Parameter-efficient fine-tuning: every PEFT method, by its own name and options."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import PreTrainedModel

from finetune.config import options
from finetune.config.suggest import did_you_mean
from finetune.errors import UserError

FULL = "full"
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
    if fresh and hasattr(config, "exclude_modules") and config.exclude_modules is None:
        # A module cannot be both adapted and trained whole.
        config.exclude_modules = rf"(.*\.)?({'|'.join(map(re.escape, fresh))})(\..*)?"
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
    return model.get_base_model() if is_adapted(model) and moves_ranks(model) else model


def moves_ranks(model: Any) -> bool:
    """Whether the adapter moves ranks between layers while it is trained."""
    return hasattr(getattr(model, "base_model", None), "update_and_allocate")


@contextmanager
def switched_off(model: PeftModel) -> Iterator[Any]:
    """The model as it is without its adapter."""
    if model.active_peft_config.is_prompt_learning:
        yield model.get_base_model()
        return
    with model.disable_adapter():
        yield scored(model)


def load(base: PreTrainedModel, folder: str) -> Any:
    """A saved adapter on its base."""
    return PeftModel.from_pretrained(base, folder)


def state(model: PeftModel) -> dict[str, Any]:
    """All that training changes, for a checkpoint: PEFT's own file keeps what inference needs, which is less."""
    allocator = model.base_model.rankallocator if moves_ranks(model) else None
    return {
        "weights": {name: value for name, value in model.named_parameters() if value.requires_grad},
        "importance": {name: getattr(allocator, name) for name in IMPORTANCE} if allocator else {},
        "rank_pattern": getattr(model.active_peft_config, "rank_pattern", None),
    }


def restore(model: PeftModel, kept: dict[str, Any]) -> None:
    """Put `state` back, bit for bit.

    Raises:
        UserError: it is of an adapter of another shape.
    """
    own = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if {name: value.shape for name, value in own.items()} != {n: v.shape for n, v in kept["weights"].items()}:
        raise UserError("the checkpoint is of an adapter with other weights than this one has")
    with torch.no_grad():
        for name, value in kept["weights"].items():
            own[name].copy_(value)
    for name, values in kept["importance"].items():
        moved = {key: value.to(model.device) for key, value in values.items()}
        setattr(model.base_model.rankallocator, name, moved)
    if kept["importance"]:
        model.active_peft_config.rank_pattern = kept["rank_pattern"]


def save(model: PeftModel, folder: str, **options: Any) -> None:
    """PEFT's own files.

    Trained embeddings are saved as modules: by "auto" PEFT asks the Hub for the base's vocabulary. AdaLoRA takes all
    ranks from some layers, and PEFT warns that those were not gathered from other processes.
    """
    with warnings.catch_warnings():
        if moves_ranks(model):
            warnings.filterwarnings("ignore", message="(?s).*have invalid shape")
        model.save_pretrained(folder, save_embedding_layers=False, **options)


def is_adapted(model: Any) -> bool:
    """Whether the model carries an adapter."""
    return isinstance(model, PeftModel)


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
