"""The script of a job: what is asked of SLURM, and what each node starts. Text from a launch; asks nobody anything.

Whoever reads it should see what will happen, and `sbatch job.sh` does it again.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune.config.launch import LaunchConfig
from finetune.plan.plan import Plan

SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+=:/,@")
STEP = """

# A signal is for the ranks, which stop at a checkpoint; this script waits for them.
trap : TERM USR1
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
{step} "$head"
code=$?
"""
AGAIN = """if [ "$code" -eq 75 ]; then  # stopped at a checkpoint: queued again, to go on from there
  # A task of an array, which is given its number here, by that: $SLURM_JOB_ID may be the whole array's.
  scontrol requeue "${1:-$SLURM_JOB_ID}" && sleep 60
fi
"""
ARRAY = """
# Each task is the job of one run, whose folder holds its script and what it says.
runs=(
{runs}
)
run=${{runs[$SLURM_ARRAY_TASK_ID]}} job=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
exec bash "$run/job.sh" "$job" >> "$run/job-$job.log" 2>&1
"""


def script(launch: LaunchConfig, name: str, folder: Path, mounts: list[str]) -> str:
    """The script of a run.

    Args:
        mounts: folders that a container must see.
    """
    again = AGAIN if launch.requeue else ""
    step = STEP.format(step=_step(launch, folder, mounts))
    environment = "\n".join(["", *_environment(launch)])
    return _head(launch, name, f"{_literal(folder)}/job-%j.log") + environment + step + again + 'exit "$code"\n'


def array(launch: LaunchConfig, name: str, log: Path, runs: Sequence[Path]) -> str:
    """The script of an array, each of its tasks one of several runs that ask for the same.

    Args:
        log: what is said outside the scripts of the runs, such as that there is none.
    """
    listed = "\n".join(f"  {shlex.quote(str(run))}" for run in runs)
    return _head(launch, name, _literal(log), array=f"0-{len(runs) - 1}") + ARRAY.format(runs=listed)


def _head(launch: LaunchConfig, name: str, output: str, **more: str) -> str:
    """The first lines of a script, which are for sbatch."""
    named = {"job-name": "".join(letter if letter in SAFE else "_" for letter in name), "output": output}
    asked = {**named, **more, **dict(requests(launch))}
    return "\n".join(["#!/bin/bash", *(f"#SBATCH --{key}{_given(value)}" for key, value in asked.items()), ""])


def _literal(path: Path) -> str:
    """A path as sbatch reads it."""
    return str(path).replace("%", "%%")


def requests(launch: LaunchConfig) -> Iterator[tuple[str, Any]]:
    """What a run asks of sbatch: long names and their values, True where there is none."""
    yield "nodes", launch.nodes
    yield "ntasks-per-node", 1
    asked = {"gpus-per-node": launch.gpus_per_node, "cpus-per-task": launch.cpus_per_node}
    asked |= {key: getattr(launch, key) for key in ("mem", "partition", "account", "qos", "constraint", "time")}
    yield from ((key, value) for key, value in asked.items() if value is not None)
    yield "open-mode", "append"
    # To the ranks' starters, not to this script.
    yield "signal", f"USR1@{launch.grace_seconds}"
    yield ("requeue" if launch.requeue else "no-requeue"), True
    yield from ((key, value) for key, value in launch.sbatch.items() if value is not False)


def _given(value: Any) -> str:
    """How sbatch reads a value in a comment of a script: quoted where it is no plain word."""
    if value is True:
        return ""
    text = str(value)
    if set(text) <= SAFE | set("%"):
        return f"={text}"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'="{escaped}"'


def _environment(launch: LaunchConfig) -> Iterator[str]:
    if launch.modules:
        yield f"module load {shlex.join(launch.modules)}"
    if launch.setup:
        yield f"source {shlex.quote(str(Path(launch.setup).expanduser().absolute()))}"
    # NCCL is silent by default, also about why it fails.
    yield "export NCCL_DEBUG=${NCCL_DEBUG:-WARN}"
    yield from (f"export {name}={shlex.quote(str(value))}" for name, value in launch.environment.items())
    yield "# Plan, rows and weights are there already; nothing is asked of the Hub."
    yield "export HF_HUB_OFFLINE=1"


def _step(launch: LaunchConfig, folder: Path, mounts: list[str]) -> str:
    """One task a node. One that fails must not end the others: they find out, and say why."""
    words = ["srun", "--kill-on-bad-exit=0", "--wait=0"]
    if launch.cpus_per_node:
        words.append(f"--cpus-per-task={launch.cpus_per_node}")
    if launch.container_image:
        shared = ",".join([*(f"{mount}:{mount}" for mount in mounts), *launch.container_mounts])
        words += [f"--container-image={launch.container_image}", f"--container-mounts={shared}"]
    python = launch.python or ("python3" if launch.container_image else sys.executable)
    return shlex.join([*words, python, "-m", "finetune.launch.job", str(folder)])


def of_plan(plan: Plan, folder: Path) -> str:
    """The script of a run that was planned."""
    mounts = [str(folder), plan.rows, *([plan.source.path] if Path(plan.source.path).is_absolute() else [])]
    return script(plan.config.launch, plan.config.name, folder, mounts)
