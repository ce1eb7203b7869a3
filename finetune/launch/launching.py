"""Where a run's processes are: this one, several of this machine, or those of a job. Chosen by name."""

from collections.abc import Callable
from pathlib import Path

from finetune.config.launch import LOCAL, RAY, LaunchConfig
from finetune.errors import UserError
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder
from finetune.training.signals import Request
from finetune.worker import as_rank

Launch = Callable[[RunFolder, Plan, Request], None]
"""Returns when the model is saved, or is left to a job."""


def of(config: LaunchConfig) -> Launch:
    """How a run is launched from this process.

    Raises:
        UserError: it needs other machines, or a cluster refuses what is asked for.
        MachineError: it needs a cluster, and this machine queues no jobs.
    """
    if config.method == LOCAL:
        return here
    if config.is_job:
        return _of_a_job(config)
    if config.nodes > 1:
        raise UserError(
            f"launch.nodes={config.nodes}: this process can start those of its own machine. Start one on each: "
            f"torchrun --nnodes={config.nodes} … -m finetune train …, or queue a job: launch=slurm"
        )
    from finetune.launch.torchrun import work

    return work


def _of_a_job(config: LaunchConfig) -> Launch:
    """Asks the cluster first: what it would refuse is known before anything is prepared."""
    if config.method == RAY:
        raise UserError("launch=ray starts the trials of a sweep, and this is one run. Write launch.method=local or "
                        "launch.method=torchrun, and launch.method=slurm for a job")  # fmt: skip
    from finetune.launch import queueing, sbatch, slurm

    if config.method in queueing.MANIFESTS:
        raise UserError(f"launch={config.method} submits nothing itself. {queueing.submitted_by(config)}")
    slurm.check_here()
    slurm.check(sbatch.script(config, "test", Path("run").absolute(), []))
    return queueing.queue


def here(folder: RunFolder, _: Plan, request: Request) -> None:
    """Train in this process, alone or as the rank that it is."""
    as_rank(folder, request)
