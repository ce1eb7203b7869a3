"""A run as a Job of Kubernetes: one pod a node, which meet by a Service and share a volume. Text from a plan.

Each pod composes the recipe that lies in a ConfigMap; the first one plans, as with torchrun typed by hand. A pod that
is taken away, or that ended by 75, is started again and goes on with the folder of the run.
"""

import re
from typing import Any

from finetune.config.launch import LaunchConfig
from finetune.errors import RESUMABLE, USER, UserError
from finetune.launch import carried
from finetune.launch.carried import Carried
from finetune.models import processes
from finetune.plan.plan import Plan

RECIPES = "/etc/finetune"
CONTAINER = "finetune"
LONGEST = 52
"""Letters of a name: with the number of a pod behind it, it is a label of at most 63."""
STARTS = 6
"""Pods of each node that may fail; where one fails, the others of its start do as well."""
Object = dict[str, Any]


def of_plan(plan: Plan) -> str:
    """The objects of a run, for `kubectl apply`.

    Raises:
        UserError: the run needs what no pod has.
    """
    launch, taken = plan.config.launch, carried.carried(plan.config)
    for file in taken.files:
        carried.refuse_outside(launch.mount, "the recipe reads a file of this machine", file)
    name = named(plan.config.name)
    made = [_config_map(name, taken.recipe), *([_service(name)] if launch.nodes > 1 else []), _job(name, plan, taken)]
    return carried.as_yaml(*made)


def named(name: str) -> str:
    """A name that Kubernetes takes."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower())[:LONGEST].strip("-")
    return plain if plain[:1].isalpha() else f"run-{plain}".strip("-")


def _config_map(name: str, recipe: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"recipe.yaml": recipe}}


def _service(name: str) -> Object:
    """Gives each pod a name. They look for each other before any of them is ready."""
    spec = {"clusterIP": "None", "selector": {"batch.kubernetes.io/job-name": name}, "publishNotReadyAddresses": True}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _job(name: str, plan: Plan, taken: Carried) -> Object:
    launch = plan.config.launch
    spec = {
        "completionMode": "Indexed",
        "completions": launch.nodes,
        "parallelism": launch.nodes,
        "backoffLimit": STARTS * launch.nodes if launch.requeue else 0,
        "podFailurePolicy": {"rules": _rules(launch)},
        "template": {"spec": _pod(name, plan, taken)},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def _rules(launch: LaunchConfig) -> list[Object]:
    """A wrong input stays wrong; what was stopped at a checkpoint, or taken away, is no failure."""
    ended = {code: {"containerName": CONTAINER, "operator": "In", "values": [code]} for code in (USER, RESUMABLE)}
    rules: list[Object] = [
        {"action": "FailJob", "onExitCodes": ended[USER]},
        {"action": "Ignore", "onExitCodes": ended[RESUMABLE]},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    return rules if launch.requeue else rules[:1]


def _pod(name: str, plan: Plan, taken: Carried) -> Object:
    launch = plan.config.launch
    spec = {
        "restartPolicy": "Never",
        "subdomain": name if launch.nodes > 1 else None,
        "terminationGracePeriodSeconds": launch.grace_seconds,
        "activeDeadlineSeconds": seconds(launch.time) if launch.time else None,
        "nodeSelector": launch.node_selector or None,
        "containers": [_container(name, plan, taken)],
        "volumes": [
            {"name": "recipe", "configMap": {"name": name}},
            {"name": "shared", "persistentVolumeClaim": {"claimName": str(launch.volume).partition(":")[0]}},
            # A container's own is 64 MB, and NCCL and the workers of data loaders need more.
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    return {key: value for key, value in spec.items() if value is not None}


def _container(name: str, plan: Plan, taken: Carried) -> Object:
    launch = plan.config.launch
    meeting = f'--node-rank="$JOB_COMPLETION_INDEX" --master-addr={name}-0.{name}'
    train = carried.train(f"{RECIPES}/recipe.yaml", taken.folder)
    ranks = carried.ranks(launch, processes.ranks_a_node(launch), meeting, train)
    container = {
        "name": CONTAINER,
        "image": launch.container_image,
        # exec: a signal is for torchrun, which passes it on to the ranks.
        "command": ["/bin/bash", "-c", f"{carried.setup(launch)}exec {ranks}\n"],
        "env": [{"name": key, "value": value} for key, value in carried.variables(launch).items()],
        "envFrom": [{"secretRef": {"name": launch.secret_name}}] if launch.secret_name else None,
        "resources": _resources(launch),
        "volumeMounts": [
            {"name": "recipe", "mountPath": RECIPES, "readOnly": True},
            {"name": "shared", "mountPath": launch.mount},
            {"name": "memory", "mountPath": "/dev/shm"},
        ],
    }
    return {key: value for key, value in container.items() if value}


def _resources(launch: LaunchConfig) -> Object:
    """A limit on processors would slow the ranks down, and one on memory is what they may rely on."""
    if not isinstance(launch.gpus_per_node, int | None):
        raise UserError(f"launch.gpus_per_node={launch.gpus_per_node}: Kubernetes counts GPUs, and their type is a "
                        f"label of the node. Write launch.gpus_per_node={launch.gpus} "
                        "launch.node_selector={nvidia.com/gpu.product: NAME}")  # fmt: skip
    memory = {"memory": f"{launch.mebibytes:.0f}Mi"} if launch.mebibytes else {}
    gpus = {"nvidia.com/gpu": launch.gpus} if launch.gpus else {}
    cpus = {"cpu": launch.cpus_per_node} if launch.cpus_per_node else {}
    return {kind: found for kind, found in {"requests": cpus | memory, "limits": memory | gpus}.items() if found}


def seconds(time: str | int) -> int:
    """A time as SLURM writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours and further."""
    days, dash, rest = str(time).rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    return int(days or 0) * 24 * 3600 + sum(part * unit for part, unit in zip(parts, units))
