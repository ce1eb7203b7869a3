"""How a run is started: in this process, in several of this machine, or as a job of a cluster. Plain values."""

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from finetune.config.types import Closed, Positive

LOCAL: Final = "local"
TORCHRUN: Final = "torchrun"
RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""With these, making the trainer's arguments already waits for the other processes."""


@dataclass(kw_only=True)
class LaunchConfig:
    """Where the processes of a run are, and how many."""

    __pydantic_config__: ClassVar[Any] = Closed

    method: Literal["local", "torchrun"] = LOCAL
    nproc_per_node: Positive | Literal["auto"] = "auto"
    """Processes a machine, by torchrun's name; auto is one for each accelerator."""
    nodes: Positive = 1
    """Machines."""
