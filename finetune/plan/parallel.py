"""How the processes of a run hold its model, as the plan decides it: what is refused, what the trainer is given.

Knows the libraries' own switches and which of them are sound together; wraps nothing. What the run then does with
shares is known by `training.sharding`.
"""

import importlib.util
from typing import Any

from finetune.config.parallel import FSDP2, NONE, ZERO2, ZERO3
from finetune.config.schema import Config
from finetune.errors import MissingExtra, UserError
from finetune.estimate.setup import Shards
from finetune.models import processes
from finetune.plan import environment
from finetune.plan.summary import ModelSummary

ADAPTERS = ("full", "lora")
"""Methods whose weights are known to be put together completely from shares."""
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")
"""Those whose states are tensors like the weights: bitsandbytes' are cut in blocks of their own."""


def check(config: Config) -> str:
    """Refuse what would train something else than it says.

    Raises:
        UserError: the method does not fit the processes, the device, the task, the adapter or the optimizer.
        MissingExtra: DeepSpeed is not installed.
    """
    method, ranks = config.parallel.method, processes.ranks(config.launch)
    if method == NONE:
        return "one process" if ranks == 1 else f"ddp: each of {ranks} processes holds the whole model"
    if ranks == 1:
        raise UserError(
            f"parallel={method} is for several processes, and this run has one. Write launch=torchrun, or leave "
            "parallel out"
        )
    if config.parallel.is_sharded:
        _check_device(config)
        _check_what_is_trained(config)
        _check_guards(config)
    held = "the whole model" if not config.parallel.is_sharded else f"1/{ranks} of {', '.join(_shared(config))}"
    return f"{method}: each of {ranks} processes holds {held}{_idle_guards(config)}"


def _check_device(config: Config) -> None:
    method = config.parallel.method
    if environment.trains_on(config.launch, config.plan.device).kind == "cpu":
        raise UserError(
            f"parallel={method} needs GPUs: on processors accelerate holds a whole model in each process instead, and "
            "does not say so. Write parallel=ddp"
        )
    if config.parallel.is_zero and importlib.util.find_spec("deepspeed") is None:
        raise MissingExtra("deepspeed", "deepspeed")


def _check_what_is_trained(config: Config) -> None:
    method, adapter, task = config.parallel.method, config.adapter["method"], config.task
    if task.opened_by is not None:
        raise UserError(f"parallel={method}: task={task.name} is trained by whole copies. Write parallel=ddp")
    if task.compares and adapter == "full" and not config.trainer.get("precompute_ref_log_probs"):
        raise UserError(
            f"parallel={method}: task={task.name} holds a second model beside the trained one, and that one would not "
            "be shared out. Write adapter=lora, or trainer.precompute_ref_log_probs=true"
        )
    if adapter not in ADAPTERS or config.adapter.get("use_dora"):
        raise UserError(
            f"parallel={method}: of this adapter it is not known that its shares are saved completely. Write "
            "adapter=lora, adapter=full, or parallel=ddp"
        )
    if method == ZERO3 and adapter != "full":
        raise UserError(
            f"parallel=zero3 with adapter={adapter} saves adapters with empty weights. Write parallel=fsdp2, or "
            "parallel=zero2"
        )
    if config.precision.trainable != "fp32":
        raise UserError(
            f"parallel={method} keeps trained weights in fp32, whatever precision.trainable says. Write "
            "precision.trainable=fp32, or parallel=ddp"
        )
    if method == FSDP2:
        _check_quantized(config)
    optimizer = str(config.trainer.get("optim", OPTIMIZERS[0]))
    if optimizer not in OPTIMIZERS:
        raise UserError(
            f"parallel={method}: the states of trainer.optim={optimizer} cannot be shared out. Write trainer.optim="
            f"{' or '.join(OPTIMIZERS)}"
        )


def _check_quantized(config: Config) -> None:
    """Shares are cut from numbers of one kind: a 4-bit base must be stored as what it computes in."""
    method = config.quantization["method"]
    if method == "none":
        return
    stored, computed = config.quantization.get("bnb_4bit_quant_storage"), _compute(config)
    if method != "bitsandbytes_4bit":
        raise UserError(
            f"parallel=fsdp2: a base in quantization={method} cannot be shared out. Write quantization=bnb_4bit"
        )
    if str(stored) != computed:
        raise UserError(
            f"parallel=fsdp2 with a 4-bit base: it is stored as {stored or 'uint8'} and computes in {computed}, and "
            f"would not be shared out. Write quantization.bnb_4bit_quant_storage={computed}"
        )


def check_model(config: Config, model: ModelSummary) -> None:
    """Refuse an architecture that cannot be cut.

    Raises:
        UserError: accelerate would fail to, such as where layers share a weight.
    """
    if config.parallel.method == FSDP2 and model.uncut:
        raise UserError(
            f"parallel=fsdp2 cannot cut {model.architecture} by layers: {model.uncut}. Write parallel=zero2, or "
            "parallel=ddp"
        )


def _compute(config: Config) -> str:
    """The dtype of products by torch's name."""
    from finetune.models import precision

    on = environment.trains_on(config.launch, config.plan.device)
    chosen = precision.resolve(config.precision, config.model.dtype, on).compute
    return str(precision.DTYPES[chosen]).removeprefix("torch.")


def _check_guards(config: Config) -> None:
    """DeepSpeed has taken the step before a guard is asked; what is stopped then, no checkpoint holds."""
    if not config.parallel.is_zero:
        return
    for name in ("non_finite", "spike"):
        if (action := getattr(config.guards, name)) in ("skip", "rollback"):
            raise UserError(
                f"parallel={config.parallel.method} with guards.{name}={action}: DeepSpeed moves the weights before a "
                f"step can be left out. Write guards.{name}=stop, or parallel=fsdp2"
            )


def _idle_guards(config: Config) -> str:
    """What is not looked at, said."""
    if not config.parallel.is_zero:
        return ""
    return "; DeepSpeed takes its steps by itself, so guards.untrained and guards.longest_first look at nothing"


def _shared(config: Config) -> list[str]:
    held = shards(config, 2)
    return [name for name in ("weights", "gradients", "optimizer") if getattr(held, name) > 1]


def shards(config: Config, ranks: int) -> Shards:
    """By how many devices each part of the memory is divided."""
    if not config.parallel.is_sharded:
        return Shards()
    weights = 1 if config.parallel.method == ZERO2 else ranks
    return Shards(optimizer=ranks, gradients=ranks, weights=weights, kept=config.parallel.is_zero)


def notes(config: Config) -> list[str]:
    """What the estimate of memory leaves out."""
    found = []
    if config.parallel.is_sharded and config.parallel.method != ZERO2:
        found.append(f"parallel={config.parallel.method}: the layer that is put together for its products")
    if config.parallel.offload:
        found.append(
            "parallel.offload: what is kept in the host's memory is counted as the GPU's: less will be needed"
        )
    return found


def arguments(config: Config) -> dict[str, Any]:
    """The trainer's own switches of the method."""
    parallel = config.parallel
    if parallel.method == FSDP2:
        # Shares in the host's memory are averaged and clipped there, which NCCL cannot.
        offloaded = {"ddp_backend": "cuda:nccl,cpu:gloo"} if parallel.offload else {}
        return {"fsdp": True, "fsdp_config": {"version": 2, "cpu_offload": parallel.offload}, **offloaded}
    return {"deepspeed": _deepspeed(config)} if parallel.is_zero else {}


def _deepspeed(config: Config) -> dict[str, Any]:
    """DeepSpeed's config; what is "auto" follows from the trainer's arguments."""
    stage = 3 if config.parallel.method == ZERO3 else 2
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 3:
        sizes = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
        zero |= dict.fromkeys(sizes, "auto")
    if config.parallel.offload:
        zero |= {name: {"device": "cpu", "pin_memory": True} for name in ("offload_optimizer", "offload_param")}
    given = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        # The optimizer is torch's own, which works on a processor as well.
        **({"zero_force_ds_cpu_optimizer": False} if config.parallel.offload else {}),
        **dict.fromkeys(given, "auto"),
    }
