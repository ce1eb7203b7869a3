"""A tiny model with random weights: from its own config where that is at hand, else from its type.

Knows configs, weights and the table of types. Knows no rows, and no task by name.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from finetune.config.options import resolve
from finetune.config.schema import ModelConfig
from finetune.config.suggest import did_you_mean
from finetune.config.task import Task
from finetune.errors import UserError
from finetune.models import source
from finetune.models.model import override, skeleton, stated
from finetune.models.source import Source, UnreachableError
from finetune.rehearse import known
from finetune.rehearse.architecture import shrink
from finetune.rehearse.known import Family

SPECIAL = [f"{role}_token_id" for role in known.ROLES]


@dataclass(frozen=True)
class Architecture:
    """The config of the model that a recipe names, and where its tokenizer is: at a source, or to be made."""

    config: PretrainedConfig
    said: str
    """Where the config came from."""
    source: Source | None = None
    family: Family | None = None


def find(model: ModelConfig, model_type: str | None) -> Architecture:
    """The architecture, from the model's own config or from what is known of it, with what the recipe overrides.

    Args:
        model_type: a type of transformers, which decides where it is given.
    Raises:
        UserError: there is no such type, the model is code of its own, or it is not at hand and its type is not known.
    """
    if model_type:
        return _of_type({"model_type": model_type}, model.config, f"{model_type}, as asked for")
    try:
        found = source.resolve(_without_fallback(model))
    except UnreachableError:
        return _known(model)
    config = stated(model, found)
    if not type(config).__module__.startswith("transformers."):
        raise UserError(
            f"model.path={model.path}: its architecture is code of its own, which is not rehearsed. Name a type that "
            "is like it: finetune rehearse --model-type llama recipe=…"
        )
    said = f"{config.model_type}, from its own config"
    if vars(config).pop("quantization_config", None):
        said += ", not quantized"
    return Architecture(config, said, source=found)


def _without_fallback(model: ModelConfig) -> ModelConfig:
    """The model as the Hub has it: weights that stand for it are not needed, nor their sum."""
    return replace(model, fallback_path=None, sha256=None)


def _known(model: ModelConfig) -> Architecture:
    """The architecture by the table.

    Raises:
        UserError: the model is not in it.
    """
    for path in (model.path, model.base_id):
        if values := known.model(path):
            return _of_type(values, model.config, f"{values['model_type']}, as recipes/offline.yaml says of {path}")
    raise UserError(
        f"model.path={model.path}: the Hub cannot be reached, and nothing is known of this model here. Say what it "
        "is: finetune rehearse --model-type llama recipe=…"
    )


def _of_type(values: dict[str, Any], overrides: dict[str, Any], said: str) -> Architecture:
    own = {name: value for name, value in values.items() if name not in ("model_type", "family")}
    try:
        config = AutoConfig.for_model(values["model_type"], **own)
    except ValueError:
        raise _no_such_type(values["model_type"]) from None
    override(config, overrides)
    return Architecture(config, said, family=known.family(values.get("family"), config.model_type))


def _no_such_type(name: str) -> UserError:
    from transformers import CONFIG_MAPPING

    hint = did_you_mean(name, list(CONFIG_MAPPING)) or "Write one such as llama, qwen3, gemma3_text or bert."
    return UserError(f"--model-type {name}: transformers has no model of that type. {hint}")


def build(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, task: Task, folder: Path) -> tuple[str, int]:
    """A tiny model in a folder, as a base is published; its class and its number of weights.

    Raises:
        UserError: the architecture has no head for the task, or cannot be made small.
    """
    words = getattr(tokenizer, "tokenizer", tokenizer)
    has_made_words = architecture.source is None and isinstance(words, PreTrainedTokenizerBase)
    small = shrink(architecture.config, len(words) if has_made_words else None)
    if has_made_words:
        _agree(small, words)
    torch.manual_seed(0)
    model = _instance(small, task)
    # A base is published with the head it was pretrained with, which speaks; any other head is new.
    base = model if model.can_generate() else model.base_model
    base.save_pretrained(folder)
    return type(model).__name__, sum(parameter.numel() for parameter in model.parameters())


def _agree(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Special tokens of the config have the ids of the tokenizer."""
    for name in SPECIAL:
        if hasattr(config, name):
            setattr(config, name, getattr(tokenizer, name))
    # T5's has none of its own: each published one brings it.
    if config.is_encoder_decoder:
        config.decoder_start_token_id = tokenizer.pad_token_id


def _instance(config: PretrainedConfig, task: Task) -> Any:
    """The model of the task, with random weights.

    Raises:
        UserError: the architecture has no head for the task, or needs something that no rule of shrinking knows.
    """
    try:
        skeleton(config, task, ModelConfig(path="tiny"))
        return resolve(task.model_class).from_config(config)
    except UserError:
        raise
    except Exception as error:  # of every kind: each architecture checks itself in its own way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{config.model_type} cannot be made small enough to rehearse: {reason}") from None
