"""The options inside an option of the trainer, which often depend on its neighbours: a schedule's, an optimizer's.

Derived from the installed libraries like all others. Knows where they are to be found; knows no value of a user.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from finetune.config.options import Option, of, stored

Node = dict[str, Any]
TAKEN = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", "kwargs"}
"""What the Trainer itself gives to a schedule."""
INTERNAL = ("max_new_tokens", "transformers_version", "pad_token_id")
"""Of a generation config: what another key or nobody decides."""
DECIDED_BY = {"lr_scheduler_kwargs": "lr_scheduler_type", "optim_args": "optim"}
"""Option to the neighbour whose value decides what is in it."""


def options_in(name: str, trainer: Node) -> dict[str, Option] | None:
    """The options that a trainer option holds, or None where it holds none or any.

    Args:
        trainer: the other options of the trainer, with their defaults.
    """
    return NESTED[name](trainer) if name in NESTED else None


def pairs(name: str, value: Any) -> dict[str, Any]:
    """What is written in such an option, by name: a mapping, or `a=1,b=2`."""
    if isinstance(value, dict):
        return value
    if name == "optim_args" and isinstance(value, str):
        parts = [part.partition("=") for part in value.replace(" ", "").split(",") if part]
        return {key: text for key, _, text in parts}
    return {}


def _schedule(trainer: Node) -> dict[str, Option]:
    """Of the function that makes the chosen schedule."""
    kind = str(trainer.get("lr_scheduler_type"))

    def derive() -> dict[str, Option]:
        from torch.optim.lr_scheduler import ReduceLROnPlateau
        from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

        schedules: dict[Any, Any] = TYPE_TO_SCHEDULER_FUNCTION
        functions = {each.value: function for each, function in schedules.items()}
        functions["reduce_lr_on_plateau"] = ReduceLROnPlateau  # the function hands its `**kwargs` on
        return _without(_of_function(functions[kind]), TAKEN) if kind in functions else {}

    return stored(f"schedule-{kind}", derive)


def _optimizer(trainer: Node) -> dict[str, Option]:
    """What the function that makes the chosen optimizer reads out of `optim_args`."""
    kind = str(trainer.get("optim"))

    def derive() -> dict[str, Option]:
        from transformers import trainer_optimizer

        makers = {
            str(getattr(each, "value", each)): maker for each, maker in trainer_optimizer._OPTIMIZER_HANDLERS.items()
        }
        known = {name: Option({}) for name in _read_from("optim_args", makers[kind])} if kind in makers else {}
        # One function makes all of bitsandbytes' optimizers, and reads these for AdEMAMix alone.
        shared = makers.get(kind) is trainer_optimizer._get_bitsandbytes_optimizer
        return {} if shared and "ademamix" not in kind else known

    return stored(f"optimizer-{kind}", derive)


def _checkpointing(_: Node) -> dict[str, Option]:
    def derive() -> dict[str, Option]:
        from torch.utils.checkpoint import checkpoint

        known = _of_function(checkpoint)
        # Read from its `**kwargs`.
        return _without(known, {"function", "context_fn"}) | {"preserve_rng_state": Option({"type": "boolean"})}

    return stored("activation-checkpointing", derive)


def generation() -> dict[str, Option]:
    """What decoding takes: the attributes of the library's config, which names them nowhere else."""

    def derive() -> dict[str, Option]:
        from transformers import GenerationConfig

        known = vars(GenerationConfig())
        return {name: Option({}, default=None) for name in known if not name.startswith("_") and name not in INTERNAL}

    return stored("generation", derive)


NESTED: dict[str, Callable[[Node], dict[str, Option]]] = {
    "lr_scheduler_kwargs": _schedule,
    "optim_args": _optimizer,
    "accelerator_config": lambda _: of("transformers.trainer_pt_utils.AcceleratorConfig"),
    "activation_checkpointing_kwargs": _checkpointing,
}


def _of_function(function: Callable[..., Any]) -> dict[str, Option]:
    from finetune.config.derive import parameters

    return {each.name: Option(each.schema, each.help, each.default) for each in parameters(function)}


def _without(known: dict[str, Option], names: set[str]) -> dict[str, Option]:
    return {name: option for name, option in known.items() if name not in names}


def _read_from(mapping: str, function: Callable[..., Any]) -> Iterator[str]:
    """The keys that a function's source reads from a mapping: `m.get("k")`, `m["k"]`, `for k in (…): if k in m`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is(node.func.value, mapping):
            found += _texts(node.args[:1])
        elif isinstance(node, ast.Subscript) and _is(node.value, mapping):
            found += _texts([node.slice])
        elif isinstance(node, ast.For) and any(_is(each, mapping) for each in ast.walk(node)):
            found += _texts(getattr(node.iter, "elts", []))
    yield from dict.fromkeys(found)


def _is(node: ast.AST, mapping: str) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == mapping


def _texts(nodes: list[Any]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
