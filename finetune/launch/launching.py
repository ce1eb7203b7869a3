"""Where a run's processes are: this one, or several of this machine. Chosen by name."""

from collections.abc import Callable

from finetune.config.launch import LOCAL, LaunchConfig
from finetune.errors import UserError
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder
from finetune.training.signals import Request
from finetune.worker import as_rank

Launch = Callable[[RunFolder, Plan, Request], None]
"""Returns when the model is saved."""


def of(config: LaunchConfig) -> Launch:
    """How a run is launched from this process.

    Raises:
        UserError: it needs other machines.
    """
    if config.method == LOCAL:
        return here
    if config.nodes > 1:
        raise UserError(
            f"launch.nodes={config.nodes}: this process can start those of its own machine. Start one on each: "
            f"torchrun --nnodes={config.nodes} … -m finetune train …"
        )
    from finetune.launch.torchrun import work

    return work


def here(folder: RunFolder, _: Plan, request: Request) -> None:
    """Train in this process, alone or as the rank that it is."""
    as_rank(folder, request)
