"""The model: its config, its skeleton without weights, the base with weights. Knows no adapter and no trainer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from finetune.config.options import resolve
from finetune.config.schema import ModelConfig
from finetune.config.suggest import did_you_mean
from finetune.config.task import Facts, Task
from finetune.errors import MachineError, UserError
from finetune.models import quantization as quantizers
from finetune.models.precision import DTYPES, device
from finetune.models.source import Source

if TYPE_CHECKING:  # the code of models takes a second to import, and a plan needs none of it
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model, and the names of the modules that no checkpoint filled: fresh heads."""

    model: PreTrainedModel
    fresh: tuple[str, ...]


def config(model: ModelConfig, source: Source, task: Task, facts: Facts) -> PretrainedConfig:
    """The architecture, with what the task knows of the data and what the recipe overrides.

    Raises:
        UserError: there is no config at the source, or an override it does not have.
    """
    try:
        found = AutoConfig.from_pretrained(
            source.path, revision=source.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.path={model.path}: no model config can be read there: {str(error).splitlines()[0]}"
        ) from None
    for name, value in model.config.items():
        if name not in found.to_dict():
            hint = did_you_mean(name, found.to_dict())
            raise UserError(f"model.config.{name}: {found.model_type} has no such value. {hint}".rstrip())
        _set(found, name, value)
    found.update(task.model_kwargs(facts))
    return found


def _set(config: PretrainedConfig, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(f"model.config.{name}={value}: {str(error).splitlines()[-1].strip()}") from None


def skeleton(config: PretrainedConfig, task: Task, model: ModelConfig) -> PreTrainedModel:
    """The architecture on the meta device: names and shapes, no memory.

    Raises:
        UserError: the architecture has no head for the task.
    """
    try:
        with torch.device("meta"):
            bare: PreTrainedModel = resolve(task.model_class).from_config(
                config,
                attn_implementation=model.attn_implementation,
                trust_remote_code=model.trust_remote_code,
            )
            return bare
    except ValueError:
        kind = task.model_class.rpartition(".")[2]
        raise UserError(
            f"task={task.name}: {config.model_type} has no {kind}. Choose another model or task."
        ) from None


def load(
    model: ModelConfig, source: Source, config: PretrainedConfig, task: Task, dtype: str, quantization: Any | None
) -> Loaded:
    """The base with its weights, on this process's device.

    Args:
        dtype: fp32, bf16, fp16, or auto for what the checkpoint stores.
    """
    try:
        base, info = resolve(task.model_class).from_pretrained(
            source.path,
            revision=source.revision,
            config=config,
            dtype=DTYPES.get(dtype, "auto"),
            attn_implementation=model.attn_implementation,
            trust_remote_code=model.trust_remote_code,
            quantization_config=quantization,
            device_map={"": device()} if quantization else None,
            output_loading_info=True,
        )
    except OSError as error:
        raise UserError(f"model.path={model.path}: its weights cannot be read: {str(error).splitlines()[0]}") from None
    except ImportError as error:
        raise MachineError(f"model.path={model.path}: {str(error).splitlines()[0]}") from None
    quantizers.keep_differentiable(base)
    fresh = fresh_modules(base, info["missing_keys"])
    if fresh:
        log.info("freshly initialised, to be trained: %s", ", ".join(fresh))
    return Loaded(base if quantization else base.to(device()), fresh)


def fresh_modules(model: PreTrainedModel, missing_keys: Any) -> tuple[str, ...]:
    """The modules of weights that the checkpoint lacks: a head by its name, anything inside the base by its path."""
    body = f"{model.base_model_prefix}."
    return tuple(
        sorted({key.rpartition(".")[0] if key.startswith(body) else key.split(".")[0] for key in missing_keys})
    )
