"""A run as a task of SkyPilot: machines that are rented for it, and given up after it. Text from a plan.

Each node composes the recipe that the task holds; the first one plans, as with torchrun typed by hand.
"""

from typing import Any

from finetune.config.launch import LaunchConfig
from finetune.errors import RESUMABLE, UserError
from finetune.launch import carried
from finetune.launch.carried import Carried
from finetune.models import processes
from finetune.plan.plan import Plan

Object = dict[str, Any]
RECIPE, END = "./recipe.yaml", "END_OF_RECIPE"
MEETING = '--node-rank="$SKYPILOT_NODE_RANK" --master-addr="$(head -n 1 <<< "$SKYPILOT_NODE_IPS")"'


def of_plan(plan: Plan) -> str:
    """The task of a run, for `sky launch`.

    Raises:
        UserError: SkyPilot could not be asked for it.
    """
    launch, taken = plan.config.launch, carried.carried(plan.config)
    mount = launch.mount
    files = [file for file in taken.files if not (mount and file.startswith(f"{mount}/"))]
    task = {
        "name": plan.config.name,
        "resources": _resources(launch),
        "num_nodes": launch.nodes,
        "volumes": {mount: str(launch.volume).partition(":")[0]} if mount else None,
        "file_mounts": {file: file for file in files},
        "envs": carried.variables(launch),
        "secrets": {launch.secret_name: None} if launch.secret_name else None,
        "setup": carried.setup(launch),
        "run": _run(plan, taken),
    }
    return carried.as_yaml({key: value for key, value in task.items() if value})


def _run(plan: Plan, taken: Carried) -> str:
    """The recipe into a file of each node, and its ranks."""
    launch = plan.config.launch
    ranks = carried.ranks(launch, processes.ranks_a_node(launch), MEETING, carried.train(RECIPE, taken.folder))
    return f"cat > {RECIPE} <<'{END}'\n{taken.recipe}{END}\nexec {ranks}\n"


def _resources(launch: LaunchConfig) -> Object:
    """What each node has."""
    found = {
        "accelerators": _accelerators(launch),
        "cpus": f"{launch.cpus_per_node}+" if launch.cpus_per_node else None,
        "memory": f"{launch.mebibytes / 1024:g}+" if launch.mebibytes else None,
        "image_id": f"docker:{launch.container_image}" if launch.container_image else None,
        # Of `sky jobs launch`; what was taken away is started again in any case.
        "job_recovery": {"recover_on_exit_codes": [RESUMABLE]} if launch.requeue else None,
    }
    return {key: value for key, value in found.items() if value}


def _accelerators(launch: LaunchConfig) -> str | None:
    if isinstance(launch.gpus_per_node, int):
        raise UserError(f"launch.gpus_per_node={launch.gpus_per_node}: SkyPilot rents GPUs by their type. Write "
                        f"launch.gpus_per_node=A100:{launch.gpus} or another; `sky show-gpus` lists them")  # fmt: skip
    return launch.gpus_per_node
