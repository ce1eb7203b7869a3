"""A model's config, made small: the same architecture, with few and narrow layers.

Rules over the names that configs use, none over families. Two factors decide every width: what becomes of the number
of heads, and of the size of a head; everything measured in heads, in sizes of a head, or in widths (their product)
shrinks by the same factor, so that whatever divided evenly still does. Of the layers, one of each kind is kept.
Knows configs and no weights, tokenizer or task.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from transformers import PretrainedConfig

HEADS, HEAD_SIZE, WIDTH, LEAST_WIDTH = 4, 16, 64, 16
LAYERS, EXPERTS = 2, 4

WIDTHS = re.compile(
    r"(.*_)?(hidden_size|hidden_dim|intermediate_size|ffn_dim|ffn_hidden_size|ff_dim|embed(ding)?_(size|dim)|emb_(size|dim)"
    r"|proj(ection)?_dim|lora_rank|bottleneck_size|feed_forward_size)|d_model|d_ff|d_inner|dff|dim_ff|dim|n_embd|n_inner"
    r"|conv_dim|lru_width|d_latents|mamba_d_ssm|intermediate_size_mlp|time_step_rank|mamba_dt_rank|dim_model_base|hc_lowrank"
)
COUNTS_OF_HEADS = re.compile(r"(.*_)?n(um)?_(.*_)?heads?(_per_layer)?|(.*_)?attention_heads|(mamba_)?n_groups")
SIZES_OF_HEADS = re.compile(r"(.*_)?head_(dim|size)|d_kv|d_head|dim_head|mamba_d_head|kv_channels|rotary_dim")
COUNTS_OF_LAYERS = re.compile(
    r"(.*_)?(encoder|decoder|hidden)_layers|(num|n)_layers?|n_layer|num_blocks|num_layers_per_stack"
)
# Where a kind of layer begins, and how often it comes: the first, and every second.
BEGINNINGS = re.compile(
    r"first_k_dense_replace|num_dense_layers|max_window_layers|moe_layer_start_index|.*_layer_offset"
)
SHARING = re.compile(r"num_kv_shared_layers")
INTERVALS = re.compile(r".*_(period|interval|sparse_step|layer_step)|(.*_)?sliding_window_pattern|.*_every_n_layers")
COUNTS_OF_EXPERTS = re.compile(r"(moe_)?num_(local_)?experts|n_routed_experts|zero_expert_num")
CHOSEN_EXPERTS = re.compile(r".*experts_per_tok(en)?|moe_topk|moe_top_k|moe_k|topk_group|n_group|num_expert_group")
VOCABULARIES = re.compile(r"(?!type_|task_type_).*vocab_size(_per_layer_input)?")
TOKENS = re.compile(r".*_token_(id|index)")


@dataclass(frozen=True)
class Scale:
    """What sizes are multiplied by."""

    heads: float
    head_size: float
    width: float


def shrink(config: PretrainedConfig, vocabulary: int | None = None) -> PretrainedConfig:
    """The same architecture with few and narrow layers.

    Args:
        vocabulary: the new size of the vocabulary; None keeps it.
    """
    small = _shrunk(config.to_dict(), None, vocabulary)
    return type(config).from_dict(small)


def _shrunk(values: dict[str, Any], outer: Scale | None, vocabulary: int | None) -> dict[str, Any]:
    """The values of a config, or of a config inside it, which has the scale of the outer one unless it has its own."""
    scale = _scale(values) or outer or Scale(1, 1, 1)
    kept = _kept_layers(values)
    small = {name: _value(name, value, scale, vocabulary) for name, value in values.items()}
    for name, value in values.items():
        if isinstance(value, dict) and "model_type" in value:
            small[name] = _shrunk(value, scale, vocabulary)
        elif name == "per_layer_config" and value:
            small[name] = _per_layer(value, kept[values["num_hidden_layers"]], scale)
        elif isinstance(value, list) and name != "architectures":
            small[name] = [_value(name, item, scale, vocabulary) for item in _of_layers(value, kept)]
        elif COUNTS_OF_LAYERS.fullmatch(name) and isinstance(value, int):
            small[name] = min(value, len(kept.get(value, range(LAYERS))))
    return small


def _scale(values: dict[str, Any]) -> Scale | None:
    """The factors of a config that has widths of its own."""
    width = _first(values, ("hidden_size", "d_model", "n_embd", "dim", "emb_dim"))
    heads = _first(values, ("num_attention_heads", "encoder_attention_heads", "n_heads", "n_head", "num_heads"))
    if width is None:
        return None
    if heads is None:
        return Scale(1, 1, min(1, WIDTH / width))
    size = _first(values, ("head_dim", "d_kv", "d_head", "dim_head", "kv_channels")) or width / heads
    by_heads, by_size = min(1, HEADS / heads), min(1, HEAD_SIZE / size)
    return Scale(by_heads, by_size, by_heads * by_size)


def _first(values: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((values[name] for name in names if isinstance(values.get(name), int) and values[name]), None)


def _value(name: str, value: Any, scale: Scale, vocabulary: int | None) -> Any:
    """A number of a config, small; anything else as it is."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return value
    if VOCABULARIES.fullmatch(name):
        return min(value, vocabulary or value)
    if TOKENS.fullmatch(name):
        return min(value, vocabulary - 1) if vocabulary else value
    return next((rule(value, scale) for pattern, rule in RULES if pattern.fullmatch(name)), value)


RULES = (
    (SIZES_OF_HEADS, lambda value, scale: max(1, round(value * scale.head_size))),
    (COUNTS_OF_HEADS, lambda value, scale: max(1, round(value * scale.heads))),
    (WIDTHS, lambda value, scale: _width(value * scale.width)),
    (BEGINNINGS, lambda value, _: min(value, 1)),
    (SHARING, lambda _, __: 0),
    (INTERVALS, lambda value, _: min(value, LAYERS)),
    (COUNTS_OF_EXPERTS, lambda value, _: min(value, EXPERTS)),
    (CHOSEN_EXPERTS, lambda value, _: min(value, EXPERTS // 2)),
)
"""Names of a config, and what becomes of a number that has one."""


def _width(value: float) -> int:
    """A width that blocks of values divide."""
    return max(LEAST_WIDTH, round(value / LEAST_WIDTH) * LEAST_WIDTH)


def _kept_layers(values: dict[str, Any]) -> dict[int, list[int]]:
    """For each number of layers, the layers that are kept: the first two, and one of each further kind."""
    counts = {value for name, value in values.items() if COUNTS_OF_LAYERS.fullmatch(name) and isinstance(value, int)}
    return {count: _of_each_kind(count, list(_lists(values, count))) for count in counts}


def _lists(values: dict[str, Any], count: int) -> Iterator[list[Any]]:
    yield from (value for value in values.values() if isinstance(value, list) and len(value) == count)


def _of_each_kind(count: int, kinds: list[list[Any]]) -> list[int]:
    """Layers that show every entry of every list; filled up from the first."""
    needed = {kind.index(entry) for kind in kinds if not _are_layers(kind) for entry in kind}
    for layer in range(count):
        if len(needed) < min(LAYERS, count):
            needed.add(layer)
    return sorted(needed)


def _are_layers(entries: list[Any]) -> bool:
    """Whether a list names layers by number, where others say something of each layer."""
    numbers = all(isinstance(entry, int) and not isinstance(entry, bool) for entry in entries)
    return numbers and all(one < other for one, other in pairwise(entries))


def _of_layers(entries: list[Any], kept: dict[int, list[int]]) -> list[Any]:
    """A list that is about layers, about those that are kept; any other as it is."""
    if len(entries) in kept and not _are_layers(entries):
        return [entries[layer] for layer in kept[len(entries)]]
    return entries


def _per_layer(values: dict[str, dict[str, Any]], kept: list[int], scale: Scale) -> dict[str, dict[str, Any]]:
    """What single layers have of their own, by their new numbers."""
    own = {int(layer): part for layer, part in values.items()}
    return {
        str(at): {name: _value(name, value, scale, None) for name, value in own[layer].items()}
        for at, layer in enumerate(kept)
        if layer in own
    }
