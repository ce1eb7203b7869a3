"""Limits of the libraries' numbers that their types do not say, as JSON Schema. Knows no installed version."""

from typing import Any

Schema = dict[str, Any]

POSITIVE: Schema = {"exclusiveMinimum": 0}
NOT_NEGATIVE: Schema = {"minimum": 0}
SHARE: Schema = {"minimum": 0, "exclusiveMaximum": 1}
COUNT: Schema = {"minimum": 1}

BOUNDS: dict[str, Schema] = {
    **dict.fromkeys(("learning_rate", "adam_epsilon", "num_train_epochs", "lora_alpha", "eps"), POSITIVE),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), POSITIVE),
    **dict.fromkeys(("weight_decay", "max_grad_norm", "warmup_steps", "dataloader_num_workers"), NOT_NEGATIVE),
    **dict.fromkeys(("neftune_noise_alpha", "eval_delay", "beta", "router_aux_loss_coef"), NOT_NEGATIVE),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), SHARE),
    **dict.fromkeys(("lora_dropout", "module_dropout", "rank_dropout"), SHARE),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "save_total_limit"), COUNT),
    **dict.fromkeys(("gradient_accumulation_steps", "dataloader_prefetch_factor", "ddp_timeout"), COUNT),
    **dict.fromkeys(("r", "init_r", "target_r"), NOT_NEGATIVE),  # OFT takes 0: its size comes from the block
    **dict.fromkeys(("num_virtual_tokens", "num_transformer_submodules"), COUNT),
    "max_steps": {"minimum": -1},
}
"""Option to its limits; where a library means something by a number outside, the limit leaves room for it."""
RESUMABLE: dict[str, Schema] = {"batch_sampler": {"enum": ["batch_sampler", "no_duplicates"]}}
"""Option to the choices of its library that a stopped run can go on with exactly; the type admits anything."""

WORDS = {
    "exclusiveMinimum": "more than {:g}",
    "minimum": "{:g} or more",
    "exclusiveMaximum": "less than {:g}",
    "maximum": "{:g} or less",
}
"""How a limit is said."""


def bounded(name: str, schema: Schema) -> Schema:
    """The schema of an option with the choices or limits of its name; limits in every branch that admits a number."""
    if name in RESUMABLE:
        return schema | RESUMABLE[name]
    if name not in BOUNDS:
        return schema
    if "anyOf" in schema:
        return schema | {"anyOf": [bounded(name, branch) for branch in schema["anyOf"]]}
    return schema | BOUNDS[name] if schema.get("type") in ("number", "integer") else schema
