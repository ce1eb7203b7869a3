"""Where the trials of a sweep run, by `launch`: processes of this machine, jobs of a cluster's queue, jobs of Ray."""

from pathlib import Path

from finetune.config.launch import RAY, LaunchConfig
from finetune.sweep.processes import Launcher, Local
from finetune.sweep.queued import Queued
from finetune.sweep.ray_jobs import RayJobs


def of(launch: LaunchConfig, name: str, arrays: Path) -> Launcher:
    """Who launches trials.

    Args:
        name: what the arrays of a queue are called.
        arrays: the folder for their scripts.
    Raises:
        MachineError: they need a cluster, and none answers.
    """
    if launch.method == RAY:
        return RayJobs(launch)
    return Queued(name, arrays) if launch.is_job else Local()


def check(launch: LaunchConfig) -> None:
    """Ask a cluster whether it would take a trial.

    Raises:
        UserError: it would not.
        MachineError: none answers.
    """
    if launch.method == RAY:
        RayJobs(launch)
    elif launch.is_job:
        from finetune.launch import launching

        launching.of(launch)
