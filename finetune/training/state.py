"""Nested Python values on disk without a pickle: tensors in safetensors, everything else in JSON beside them.

Knows what optimizers, schedulers and random generators keep: dicts with keys of any kind, lists, tuples, tensors,
NumPy arrays and plain values. What it does not know it refuses, by name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

PLAIN = (str, bool, int, float, type(None))


def save(value: Any, folder: Path, name: str) -> None:
    """Write `name.json` and, where there are tensors, `name.safetensors`.

    Raises:
        TypeError: the value holds something that only a pickle could keep.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_plain(value, tensors))
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    if tensors:
        save_file(tensors, folder / f"{name}.safetensors")


def load(folder: Path, name: str) -> Any:
    """The value that `save` was given, with tensors on the processor."""
    file = folder / f"{name}.safetensors"
    tensors = load_file(file) if file.is_file() else {}
    return _lively(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), tensors)


def _plain(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return {"tensor": _kept(value, tensors)}
    if isinstance(value, np.ndarray):
        return {"array": _kept(torch.from_numpy(value), tensors)}
    if isinstance(value, np.generic):
        return _plain(value.item(), tensors)
    if isinstance(value, Mapping):
        return {"dict": [[_plain(key, tensors), _plain(part, tensors)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_plain(part, tensors) for part in value]}
    if type(value) in PLAIN:
        return value
    raise TypeError(f"a {type(value).__name__} cannot be kept without a pickle")


def _kept(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    """The name of the tensor in the file; a part of a larger storage is copied, since safetensors keeps whole ones."""
    name, whole = str(len(tensors)), tensor.detach().cpu().contiguous()
    shared = whole.untyped_storage().nbytes() != whole.numel() * whole.element_size()
    tensors[name] = whole.clone() if shared else whole
    return name


def _lively(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {_lively(key, tensors): _lively(part, tensors) for key, part in content}
    parts = [_lively(part, tensors) for part in content]
    return tuple(parts) if kind == "tuple" else parts
