"""What a module of sentence-transformers gave while something ran. Knows no module by name, and no loss."""

from collections.abc import Callable
from typing import Any

import torch


def recorded(model: Any, output: str, run: Callable[[], Any]) -> tuple[Any, list[torch.Tensor]]:
    """What a function gives, and the outputs that the whole gave meanwhile."""
    seen: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda *given: seen.append(given[-1][output]))
    try:
        return run(), seen
    finally:
        handle.remove()
