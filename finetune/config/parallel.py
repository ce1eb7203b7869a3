"""How several processes hold one model: each a whole copy, or each its share. Plain values."""

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from finetune.config.types import Closed, Switch

NONE: Final = "none"
DDP: Final = "ddp"
FSDP2: Final = "fsdp2"
ZERO2: Final = "zero2"
ZERO3: Final = "zero3"
OFFLOADING = (FSDP2, ZERO3)
"""Methods that can keep their shares in the host's memory."""


@dataclass(kw_only=True)
class ParallelConfig:
    """How the processes of a run hold its model."""

    __pydantic_config__: ClassVar[Any] = Closed

    method: Literal["none", "ddp", "fsdp2", "zero2", "zero3"] = NONE
    offload: Switch = False
    """Keep a GPU's share in the host's memory while nothing is computed with it."""

    @property
    def is_sharded(self) -> bool:
        """Whether a process holds less than all of weights, gradients and optimizer."""
        return self.method in (FSDP2, ZERO2, ZERO3)

    @property
    def is_zero(self) -> bool:
        """Whether DeepSpeed trains."""
        return self.method in (ZERO2, ZERO3)
