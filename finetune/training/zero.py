"""DeepSpeed's shares by its own calls: a weight and its optimizer states, whole, one after the other.

Its own checkpoints are pickles, cut by the number of processes; none is written or read here. Knows engines and their
weights, no trainer and no file.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from finetune.training import ranks


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Name to what the optimizer moves, in fp32, and to what is frozen; empty on all processes but the first."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    found = {}
    for name, weight in model.named_parameters():
        with GatheredParameters([weight], enabled=not weight.requires_grad):
            whole = safe_get_full_fp32_param(weight) if weight.requires_grad else weight
            if ranks.is_first():
                found[name] = whole.detach().cpu().clone()
    return found


def load_weights(model: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    """Both what the optimizer moves and the copies that products are made of."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_set_full_fp32_param

    for name, weight in _trained(model):
        safe_set_full_fp32_param(weight, values[name].to(weight.device, torch.float32))
        with GatheredParameters([weight], modifier_rank=0), torch.no_grad():
            weight.data.copy_(values[name])
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in values:
                buffer.copy_(values[name])


def optimizer(engine: Any) -> dict[str, Any]:
    """As torch gives the state of an optimizer over the whole weights, in the order of its groups."""
    from deepspeed.utils import safe_get_full_optimizer_state

    _link(engine)
    names, step = _of_share(engine)
    states: dict[int, dict[str, Any]] = {}
    for at, weight in enumerate(weight for held in _groups(engine) for weight in held):
        whole = {name: safe_get_full_optimizer_state(weight, name) for name in names}
        if names and ranks.is_first():
            states[at] = {name: value.detach().cpu().clone() for name, value in {"step": step, **whole}.items()}
    return {"state": states, "param_groups": _numbered(engine)}


def load_optimizer(engine: Any, kept: dict[str, Any]) -> None:
    """Hand out what `optimizer` gave; an optimizer that has taken no step is given states first."""
    from deepspeed.utils import safe_set_full_optimizer_state

    base = engine.optimizer.optimizer
    for group, saved in zip(base.param_groups, kept["param_groups"], strict=True):
        group.update({name: value for name, value in saved.items() if name != "params"})
    if not kept["state"]:
        return
    step, names = kept["state"][0]["step"], [name for name in kept["state"][0] if name != "step"]
    for share in _shares(engine):
        base.state[share] = {"step": step.clone(), **{name: torch.zeros_like(share) for name in names}}
    _link(engine)
    for at, weight in enumerate(weight for held in _groups(engine) for weight in held):
        for name in names:
            safe_set_full_optimizer_state(weight, kept["state"][at][name].to(weight.device), name)


def leave() -> None:
    """From here on models are loaded in one piece: transformers would share them out as well while ZeRO-3 is on."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _groups(engine: Any) -> list[list[torch.nn.Parameter]]:
    """The weights of each group of the optimizer, which holds shares of them end to end."""
    found: list[list[torch.nn.Parameter]] = getattr(engine.optimizer, "bit16_groups", None) or [
        [weight for weight in held if weight.requires_grad] for held in engine.optimizer.fp16_groups
    ]
    return found


def _numbered(engine: Any) -> list[dict[str, Any]]:
    """The optimizer's groups, their weights by number."""
    numbers = itertools.count()
    return [
        {**group, "params": [next(numbers) for _ in held]}
        for held, group in zip(_groups(engine), engine.optimizer.optimizer.param_groups, strict=True)
    ]


def _shares(engine: Any) -> list[torch.Tensor]:
    """What this process's optimizer moves: a share of each group's weights, end to end."""
    two, three = "single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"
    found: list[torch.Tensor] = getattr(engine.optimizer, two, None) or getattr(engine.optimizer, three)
    return found


def _link(engine: Any) -> None:
    """Tell ZeRO-2's weights where their states are: 0.19 does so for the first group alone, after its first step."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    states = engine.optimizer.optimizer.state
    for held, share in zip(getattr(engine.optimizer, "bit16_groups", ()), _shares(engine), strict=False):
        if share in states:
            lazy_init_hp_params_optimizer_state(held, share, states)


def _of_share(engine: Any) -> tuple[list[str], Any]:
    """Names of the states that have a number for each one of a weight, and the step."""
    part: dict[str, Any] = next(iter(engine.optimizer.optimizer.state.values()), {})
    return [name for name, value in part.items() if name != "step" and torch.is_tensor(value)], part.get("step")
