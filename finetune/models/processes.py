"""How many processes train a model together: what the launch says, or one for each accelerator.

Imports torch only where the accelerators have to be counted.
"""

from finetune.config.launch import LOCAL, LaunchConfig
from finetune.errors import MachineError, UserError


def accelerators() -> int:
    """How many this process sees."""
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def ranks(launch: LaunchConfig) -> int:
    """How many processes train together."""
    return 1 if launch.method == LOCAL else launch.nodes * ranks_a_node(launch)


def ranks_a_node(launch: LaunchConfig) -> int:
    """How many processes of one machine train together.

    Raises:
        UserError: there is to be one for each GPU of a job, and none is asked for.
        MachineError: there is to be one for each accelerator, and there is none.
    """
    if launch.nproc_per_node != "auto":
        return launch.nproc_per_node
    if launch.is_job:
        return _one_for_each_gpu(launch)
    if not (found := accelerators()):
        raise MachineError(
            "launch.nproc_per_node=auto is one process for each accelerator, and this machine has none. Write a "
            "number: launch.nproc_per_node=2 trains in two processes on the processor"
        )
    return found


def _one_for_each_gpu(launch: LaunchConfig) -> int:
    if not launch.gpus:
        raise UserError(
            "launch.nproc_per_node=auto is one process for each GPU of a node, and none is asked for. Write "
            "launch.gpus_per_node=4, or a number: launch.nproc_per_node=2 trains in two processes on the processor"
        )
    return launch.gpus
