"""The trained model on disk, as plain transformers and peft load it: safetensors and JSON, no pickle, no code of ours.

A whole model is one folder for `from_pretrained`. An adapter lies beside `base_config/`, the base's config with the
labels of this run, because a base loaded without it would get a head of another size.
"""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from finetune.config import options
from finetune.models import adapter, modules, quantization
from finetune.models.model import heads
from finetune.models.precision import DTYPES, device
from finetune.models.source import Source
from finetune.plan.plan import Plan

BASE_CONFIG = "base_config"


def save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the artifact."""
    inner = modules.core(model)
    if adapter.is_adapted(inner):
        adapter.save(inner, str(folder))
        _base_config(inner).save_pretrained(folder / BASE_CONFIG)
        if inner.can_generate():
            inner.generation_config.save_pretrained(folder)
    else:
        inner.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules.save(model, folder)
    (folder / "README.md").unlink(missing_ok=True)


def _base_config(model: Any) -> PretrainedConfig:
    """The base's config; a quantization of this run is left out, because it says that the stored weights have it."""
    config: PretrainedConfig = deepcopy(model.config)
    quantizer = getattr(model.get_base_model(), "hf_quantizer", None)
    if quantizer is not None and not quantizer.pre_quantized:
        del config.quantization_config
    return config


def load(plan: Plan, folder: Path) -> Any:
    """The artifact, loaded by plain library calls on this process's device."""
    auto = options.resolve(plan.config.task.model_class)
    if not (folder / "adapter_config.json").is_file():
        attention, trust = plan.config.model.attn_implementation, plan.config.model.trust_remote_code
        whole = auto.from_pretrained(folder, dtype="auto", attn_implementation=attention, trust_remote_code=trust)
        return _around(plan, whole.to(device()), folder)
    base = _base(plan, folder, auto)
    if (folder / "generation_config.json").is_file():
        base.generation_config = GenerationConfig.from_pretrained(folder)
    whole = _around(plan, base, folder)
    loaded = modules.with_core(whole, adapter.load(base, str(folder)))
    return loaded.to(device()) if plan.config.quantization["method"] == quantization.NONE else loaded


def _around(plan: Plan, model: Any, folder: Path) -> Any:
    return plan.config.task.around(model, Source(str(folder)), None, plan.max_length)


def _base(plan: Plan, folder: Path, auto: Any) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder / BASE_CONFIG, trust_remote_code=plan.config.model.trust_remote_code)
    whole = partial(heads, config, plan.config.task, plan.config.model)
    quantizer = quantization.config(plan.config.quantization, plan.precision, whole)
    base: PreTrainedModel = auto.from_pretrained(
        plan.source.path,
        revision=plan.source.revision,
        config=config,
        dtype=DTYPES.get(plan.precision.frozen, "auto"),
        attn_implementation=plan.config.model.attn_implementation,
        trust_remote_code=plan.config.model.trust_remote_code,
        quantization_config=quantizer,
        device_map={"": device()} if quantizer else None,
    )
    quantization.keep_differentiable(base)
    return base if not quantizer else adapter.prepare_quantized(base, checkpointing=False)


def load_tokenizer(plan: Plan, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as it was saved."""
    trust = plan.config.model.trust_remote_code
    kind = options.resolve(plan.config.task.processing_class)
    tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder, trust_remote_code=trust)
    return tokenizer
