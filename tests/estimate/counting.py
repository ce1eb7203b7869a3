"""An independent count: torch's own MemTracker follows every storage through two steps on fake tensors."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from finetune.estimate.activations import inputs


class Tracker(MemTracker):
    """torch's, for models with frozen weights: it registers gradient hooks on every weight, and torch refuses some."""

    def _track_module_params_and_buffers(self, module, install_grad_hooks=True):
        frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            return super()._track_module_params_and_buffers(module, install_grad_hooks)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)


def counted(model, rows, length, compute="fp32", checkpointing=False, accumulation=1):
    """Peak bytes of two steps of fused AdamW. The model's weights become fake tensors and stay so."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.enable_input_require_grads()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    _fill(model, base, mode)
    with mode:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
        tracker = Tracker()
        tracker.track_external(model, optimizer)
        with tracker:
            for _ in range(2):
                for _ in range(accumulation):
                    _loss(model, rows, length, compute).backward()
                    tracker.reset_mod_stats()
                optimizer.step()
                optimizer.zero_grad()
    return sum(snapshot["Total"] for snapshot in tracker.get_tracker_snapshot("peak").values())


def _fill(model, base, mode):
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    try:
        with mode:
            model.to_empty(device="cpu").train()
            base.tie_weights()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def _loss(model, rows, length, compute):
    given = inputs(model, rows, length, masked=True)
    labels = torch.zeros(rows, dtype=torch.long) if "Sequence" in type(_base(model)).__name__ else given["input_ids"]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=compute != "fp32"):
        return model(**given, labels=labels).loss


def _base(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model
