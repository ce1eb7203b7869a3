"""What is trained of what: counted on a skeleton, names and shapes without weights.

A skeleton takes seconds of imports, so what was counted is kept for the same architecture and adapter.
"""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from finetune.config.cache import digest, kept
from finetune.config.schema import Config
from finetune.data.prepare import Prepared
from finetune.models.model import HEADLESS
from finetune.plan.skeletons import Skeletons

# Raised when the counting changes.
VERSION = 5


Stored = dict[str, list[int] | None]
"""Name of a weight to its shape, where that is at hand."""


@dataclass(frozen=True)
class ModelSummary:
    """What is trained of what."""

    architecture: str
    parameters: int
    trainable: int
    adapted: dict[str, dict[str, int]]
    """Name of an adapted module to its shapes, `576 → 1536`, and how many there are of each."""
    fresh: list[str]
    """Heads that the base does not bring."""
    attention: str
    uncut: str = ""
    """Why accelerate cannot share it out layer by layer; nothing where it can."""


def summary(config: Config, prepared: Prepared) -> ModelSummary:
    """Count, or take what was counted before.

    Raises:
        UserError: the architecture has no head for the task, or the adapter does not fit it.
    """
    stored = _stored(Path(prepared.source.path))
    if config.model.trust_remote_code:  # what its code builds is not known by its config
        return _counted(config, prepared, stored)
    task = config.task
    inputs = [VERSION, prepared.architecture, task.model_class, task.peft_type, asdict(task), config.adapter,
              config.model.attn_implementation, stored]  # fmt: skip
    found = kept(f"summary-{digest(inputs)}", lambda: asdict(_counted(config, prepared, stored)), _is_summary)
    return ModelSummary(**found)


def _is_summary(found: Any) -> bool:
    return isinstance(found, dict) and found.keys() == {each.name for each in fields(ModelSummary)}


def _counted(config: Config, prepared: Prepared, stored: Stored | None) -> ModelSummary:
    bare = Skeletons(config, prepared).base()
    total = sum(parameter.numel() for parameter in bare.parameters())
    name, attention = type(bare).__name__, str(bare.config._attn_implementation)
    fresh = [] if config.task.model_class == HEADLESS else _fresh(bare, stored)
    adapted = Skeletons(config, prepared, fresh).own
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    return ModelSummary(name, total, trainable, _adapted(adapted), fresh, attention, _uncut(bare))


def _uncut(bare: Any) -> str:
    """The embeddings at both ends are taken by themselves, together where they share a weight; nothing else may."""
    try:
        bare.get_input_embeddings()
    except NotImplementedError:
        return "it names no input embeddings"
    shared = _shared(bare)
    return f"its layers share {shared[0]}" if shared else ""


def _shared(bare: Any) -> list[str]:
    """Weights that several layers hold, other than the embeddings."""
    from finetune.estimate.static import embeddings

    ends, holders = embeddings(bare), defaultdict[int, list[Any]](list)
    for module in bare.modules():
        for _, weight in module.named_parameters(recurse=False):
            holders[id(weight)].append(module)
    return [
        name for name, weight in bare.named_parameters()
        if len(holders[id(weight)]) > 1 and any(each not in ends for each in holders[id(weight)])
    ]  # fmt: skip


def _fresh(bare: Any, stored: Stored | None) -> list[str]:
    """Heads that no stored weight fills; where the names are not at hand, all those of another architecture."""
    tied = set(bare.all_tied_weights_keys)
    heads = [
        name for name, child in bare.named_children()
        if name != bare.base_model_prefix and any(f"{name}.{key}" not in tied for key, _ in child.named_parameters())
    ]  # fmt: skip
    if stored is None:
        return [] if type(bare).__name__ in (bare.config.architectures or []) else heads
    own = {name: list(value.shape) for name, value in bare.named_parameters()}
    fitting = [name for name, shape in stored.items() if shape is None or own.get(name, shape) == shape]
    return [head for head in heads if not any(f".{head}." in f".{name}" for name in fitting)]


def _adapted(adapted: Any) -> dict[str, dict[str, int]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, dict[str, int]] = {}
    for name, module in adapted.named_modules():
        if isinstance(module, BaseTunerLayer):
            shapes = found.setdefault(name.rpartition(".")[2], {})
            shape = _shape(module.get_base_layer())
            shapes[shape] = shapes.get(shape, 0) + 1
    return found


def _shape(layer: Any) -> str:
    weight = getattr(layer, "weight", None)
    return " → ".join(str(size) for size in reversed(weight.shape)) if weight is not None else "?"


def _stored(folder: Path) -> Stored | None:
    """The weights in a safetensors checkpoint that lies here, else None."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return dict.fromkeys(sorted(names))
    if not single.is_file():
        return None
    with single.open("rb") as stream:  # the header alone: eight bytes of its length, then JSON
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {name: header[name]["shape"] for name in sorted(header) if name != "__metadata__"}
