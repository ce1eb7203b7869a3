"""What a trainer holds in shares, put together where it is saved and handed out where it is loaded.

A checkpoint has one format whatever the method and the number of processes: whole weights by their names, and the
optimizer's state as torch gives it for a model in one piece. Everything here is asked of all processes at once.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

from finetune.errors import UserError
from finetune.models import adapter, sharded
from finetune.training import ranks, state, zero

LAYERS = "transformer_layer_cls_to_wrap"
"""transformers' word, in `fsdp_config`."""


def is_sharded(trainer: Any) -> bool:
    """Whether the trainer's model or optimizer is in shares."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def layers(model: Any) -> list[str]:
    """Names of the classes whose modules are shared out one by one: transformers' own list of the model.

    Without those around the embeddings, such as BERT's, which accelerate 1.15 takes by themselves, and so twice.
    """
    embeddings = model.get_input_embeddings()
    around = {type(module).__name__ for module in model.modules() if embeddings in list(module.children())}
    return sorted(set(model._no_split_modules or ()) - around)


def wrapping(trainer: Any) -> str:
    """How the trainer holds its model, by the names of the group `parallel`."""
    wrapped = getattr(trainer.model_wrapped, "_orig_mod", trainer.model_wrapped)
    if trainer.is_deepspeed_enabled:
        return f"zero{wrapped.zero_optimization_stage()}"
    known = {FSDPModule: "fsdp2", torch.nn.parallel.DistributedDataParallel: "ddp", torch.nn.DataParallel: "dp"}
    return next((name for kind, name in known.items() if isinstance(wrapped, kind)), "none")


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    """The whole weights by name, of an adapter those it trains; on the first process complete, on others perhaps not.

    ZeRO's are the numbers that the optimizer moves, not the 16-bit copies that products are made of.
    """
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if adapter.is_adapted(model):
        take = zero.weights if trainer.is_deepspeed_enabled else adapter.trained
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        return {name: value.cpu() for name, value in take(model).items() if name in trained}
    if trainer.is_deepspeed_enabled:
        return {**_buffers(model), **zero.weights(model)}
    found: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return found


def _buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint keeps of a model besides its weights; every process has it whole."""
    stored = model.state_dict().keys()
    return {name: buffer.detach().cpu() for name, buffer in model.named_buffers() if name in stored}


def optimizer(trainer: Any) -> dict[str, Any]:
    """The optimizer's whole state on the first process; on the others its tensors are left out."""
    if trainer.is_deepspeed_enabled:
        return zero.optimizer(trainer.model_wrapped)
    found: dict[str, Any] = sharded.put_together(trainer.optimizer.state_dict(), ranks.is_first())
    return found


def load_weights(trainer: Any, folder: Path) -> None:
    """The weights of a checkpoint, handed out.

    Raises:
        UserError: they are of another model.
    """
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if trainer.is_deepspeed_enabled:
        zero.load_weights(model, read_weights(model, folder))
    elif adapter.is_adapted(model):
        adapter.restore(model, state.load(folder, "trained"))
    else:
        fill(model, read_weights(model, folder))


def read_weights(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The whole weights in a checkpoint, or all that an adapter trains."""
    if adapter.is_adapted(model):
        found: dict[str, torch.Tensor] = state.load(folder, "trained")["weights"]
        return found
    return {name: value for file in folder.glob("model*.safetensors") for name, value in load_file(file).items()}


def fill(model: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    """Whole weights and buffers into a model, in shares or not.

    Raises:
        UserError: a weight is missing, or the model has none of that name.
    """
    own, needed = model.state_dict(), {name for name, _ in model.named_parameters()}
    if wrong := sorted({*(needed - values.keys()), *(values.keys() - own.keys())}):
        raise UserError(f"the checkpoint is of another model: {', '.join(wrong[:5])} do not agree")
    for name, value in values.items():
        sharded.fill(own[name], value)


def fill_trained(model: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    """What `weights` gave, into a model in one piece."""
    if adapter.is_adapted(model):
        adapter.restore(model, {"weights": values, "importance": {}})
    else:
        fill(model, values)


def load_optimizer(trainer: Any, kept: dict[str, Any]) -> None:
    """The whole state of an optimizer, handed out."""
    if trainer.is_deepspeed_enabled:
        zero.load_optimizer(trainer.model_wrapped, kept)
        return
    every = [weight for group in trainer.optimizer.param_groups for weight in group["params"]]
    shared = {
        at: {
            name: sharded.share(value, every[at]) if torch.is_tensor(value) else value for name, value in part.items()
        }
        for at, part in kept["state"].items()
    }
    trainer.optimizer.load_state_dict({**kept, "state": shared})


def release(trainer: Any) -> None:
    """Give back what only further steps would need: the whole model is to be held beside."""
    trainer.model.zero_grad(set_to_none=True)
    if trainer.is_deepspeed_enabled:
        zero.leave()
    else:
        trainer.optimizer.state.clear()
