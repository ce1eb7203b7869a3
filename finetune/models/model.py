"""The model: its config, its skeleton without weights, the base with weights. Knows no adapter and no trainer."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError

from finetune.config.installed import tasks
from finetune.config.options import resolve
from finetune.config.schema import ModelConfig
from finetune.config.suggest import did_you_mean
from finetune.config.task import Brought, Facts, Task
from finetune.errors import MachineError, UserError
from finetune.models import quantization as quantizers
from finetune.models.precision import DTYPES, device
from finetune.models.source import Source
from finetune.models.tokenizer import positions

if TYPE_CHECKING:  # the code of models takes a second to import, and a plan needs none of it
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)
HEADLESS = "transformers.AutoModel"
"""The class of models that are read before any head."""
POOLER = "pooler"
"""The head that BERT and its kin have even so."""


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
    found = stated(model, source)
    found.update(task.model_kwargs(facts))
    return found


def brought(model: ModelConfig, source: Source) -> Brought:
    """What the model has of its own that rows must agree with: labels, where texts end, positions, its config.

    Raises:
        UserError: there is no config at the source, or an override it does not have.
    """
    from transformers import GenerationConfig

    own = stated(model, source)
    try:
        decoding = GenerationConfig.from_pretrained(source.path, revision=source.revision or "main").to_dict()
    except (OSError, ValueError):  # a model that generates nothing has none
        decoding = {"eos_token_id": getattr(own.get_text_config(), "eos_token_id", None)}
    labels = () if model.ignore_mismatched_sizes else _labels(own)
    stops = decoding.get("eos_token_id")
    kept = tuple(stops if isinstance(stops, list) else [] if stops is None else [stops])
    return Brought(labels, kept, positions(own), own.to_dict(), decoding)


def _labels(config: PretrainedConfig) -> tuple[str, ...]:
    """The names of a head's labels; `LABEL_0` is how transformers names what has no name."""
    names = [str(name) for _, name in sorted((config.id2label or {}).items(), key=lambda item: int(item[0]))]
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else tuple(names)


def stated(model: ModelConfig, source: Source) -> PretrainedConfig:
    """The architecture as its own config states it, with what the recipe overrides.

    Raises:
        UserError: there is no config at the source, or an override it does not have.
    """
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(
            source.path, revision=source.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model.path={model.path}: no model config can be read there: {_first_line(error)}") from None
    override(found, model.config)
    return found


def override(config: PretrainedConfig, values: dict[str, Any]) -> None:
    """Set values of the architecture that a recipe writes.

    Raises:
        UserError: the architecture has no such value, or it cannot be this.
    """
    for name, value in values.items():
        if name not in config.to_dict():
            hint = did_you_mean(name, config.to_dict())
            raise UserError(f"model.config.{name}: {config.model_type} has no such value. {hint}".rstrip())
        _set(config, name, value)


def _set(config: PretrainedConfig, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(f"model.config.{name}={value}: {str(error).splitlines()[-1].strip()}") from None


def skeleton(config: PretrainedConfig, task: Task, model: ModelConfig) -> PreTrainedModel:
    """The architecture on the meta device: names and shapes, no memory.

    Raises:
        UserError: the architecture has no head for the task, or does not take the attention asked for.
        MachineError: a package of that attention is not installed.
    """
    try:
        with torch.device("meta"):
            bare: PreTrainedModel = resolve(task.model_class).from_config(
                config,
                attn_implementation=model.attn_implementation,
                trust_remote_code=model.trust_remote_code,
            )
            if not model.from_config:
                task.freeze(bare)
            return _read(bare, task)
    except ImportError as error:
        raise MachineError(f"model.attn_implementation={model.attn_implementation}: {_first_line(error)}") from None
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise UserError(f"model.path={model.path}: {_first_line(error)}") from None
        kind = task.model_class.rpartition(".")[2]
        fitting = ", ".join(_tasks_of(config)) or "none"
        raise UserError(
            f"task={task.name}: {config.model_type} has no {kind}. Tasks for {config.model_type}: {fitting}."
        ) from None


def _tasks_of(config: PretrainedConfig) -> list[str]:
    """The tasks that an architecture has a head for."""
    with_heads = {name: kind.model_class for name, kind in tasks().items() if kind.model_class != HEADLESS}
    return [name for name, kind in with_heads.items() if type(config) in getattr(resolve(kind), "_model_mapping", ())]


def heads(config: PretrainedConfig, task: Task, model: ModelConfig) -> tuple[str, ...]:
    """The modules beside the body: a head of the task, or what speaks."""
    bare = skeleton(config, task, model)
    names = [name for name, _ in bare.named_children()]
    return tuple(name for name in names if name != bare.base_model_prefix and bare.base_model_prefix in names)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def load(
    model: ModelConfig, source: Source, config: PretrainedConfig, task: Task, dtype: str, quantization: Any | None
) -> Loaded:
    """The base with its weights, on this process's device.

    Args:
        dtype: fp32, bf16, fp16, or auto for what the checkpoint stores.
    """
    from finetune.models.generate import drop_idle

    if model.from_config:
        log.info("model.from_config=true: every weight begins at random")
        return Loaded(_random(model, config, task, dtype).to(device()), ())  # type: ignore[arg-type]
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
            ignore_mismatched_sizes=model.ignore_mismatched_sizes,
        )
    except RuntimeError as error:
        raise _mismatched(model, error) from None
    except OSError as error:
        raise UserError(f"model.path={model.path}: its weights cannot be read: {_first_line(error)}") from None
    except ImportError as error:
        raise MachineError(f"model.path={model.path}: {_first_line(error)}") from None
    _check_filled(model, base, info["missing_keys"])
    drop_idle(base)
    quantizers.keep_differentiable(_read(base, task))
    task.freeze(base)
    unfilled = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    fresh = () if task.model_class == HEADLESS else fresh_modules(base, unfilled)
    if fresh:
        log.info("freshly initialised, to be trained: %s", ", ".join(fresh))
    return Loaded(base if quantization else base.to(device()), fresh)


def _mismatched(model: ModelConfig, error: RuntimeError) -> Exception:
    """What to say of a head of another size; any other error as it is."""
    if "ignore_mismatched_sizes" not in str(error):
        return error
    return UserError(
        f"model.path={model.path}: a head of the model is of another size than the data has labels. To learn other "
        "labels with a new one, write model.ignore_mismatched_sizes=true"
    )


def _random(model: ModelConfig, config: PretrainedConfig, task: Task, dtype: str) -> PreTrainedModel:
    """The architecture with the weights it draws for itself."""
    random: PreTrainedModel = resolve(task.model_class).from_config(
        config, dtype=DTYPES.get(dtype, torch.float32), attn_implementation=model.attn_implementation,
        trust_remote_code=model.trust_remote_code,
    )  # fmt: skip
    return _read(random, task)


def _read(model: PreTrainedModel, task: Task) -> PreTrainedModel:
    """The model; where vectors are read before any head, its pooler, which is one, is not trained."""
    pooler = getattr(model, POOLER, None)
    if task.model_class == HEADLESS and pooler is not None:
        pooler.requires_grad_(False)
    return model


def _check_filled(model: ModelConfig, base: PreTrainedModel, missing_keys: Any) -> None:
    """Refuse a base that would begin at random: some classes look for it under a name no checkpoint has.

    `LlamaForQuestionAnswering` is one, and all that are made like it (transformers 5.23, modeling_layers.py).
    """
    body = {name for name, _ in base.named_parameters() if name.startswith(f"{base.base_model_prefix}.")}
    if body and body <= set(missing_keys):
        raise UserError(
            f"model.path={model.path}: {type(base).__name__} finds none of its weights there, and transformers would "
            "begin at random. Choose another model or task, or say that you want that: model.from_config=true"
        )


def fresh_modules(model: PreTrainedModel, missing_keys: Any) -> tuple[str, ...]:
    """The modules of weights that the checkpoint lacks: a head by its name, anything inside the base by its path."""
    body = f"{model.base_model_prefix}."
    return tuple(
        sorted({key.rpartition(".")[0] if key.startswith(body) else key.split(".")[0] for key in missing_keys})
    )
