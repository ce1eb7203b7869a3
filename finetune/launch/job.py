"""One node's share of a job: starts the ranks of this node; the first node verifies what they saved.

srun --ntasks-per-node=1 python -m finetune.launch.job RUN FIRST_NODE

All nodes meet on the first one, which need not hold rank 0. Whatever ends the ranks is said once and is the exit code
of the job; 75 has it queued again.
"""

import logging
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.elastic.rendezvous import RendezvousError

from finetune.config.launch import LaunchConfig
from finetune.errors import DONE, OUR_FAULT, FinetuneError, MachineError, Stopped
from finetune.launch import torchrun
from finetune.plan import frozen
from finetune.plan.run_folder import DONE as VERIFIED
from finetune.plan.run_folder import SAVED, RunFolder, find
from finetune.training import checkpoint, peers, signals
from finetune.training.signals import Request

log = logging.getLogger("finetune")

SHOWN = ("NCCL_", "GLOO_", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Node:
    """Which machine of a job this is."""

    number: int
    nodes: int
    name: str
    head: str
    """The first one, where all meet."""
    job: str
    start: int
    """How often the job was queued again."""

    @property
    def is_first(self) -> bool:
        """Whether all meet here."""
        return self.number == 0

    def meeting(self, launch: LaunchConfig) -> dict[str, Any]:
        """Where all nodes meet, as torchrun names it."""
        seconds = launch.rdzv_timeout
        # Two jobs of one machine differ in their numbers, so they meet at different ports.
        port = launch.rdzv_port or 20000 + int(self.job) % 20000
        return {
            "min_nodes": self.nodes,
            "max_nodes": self.nodes,
            "run_id": f"{self.job}.{self.start}",
            "rdzv_endpoint": f"{self.head}:{port}",
            "rdzv_configs": {"is_host": self.is_first, "read_timeout": seconds, "join_timeout": seconds},
            "local_addr": self.name,
        }


def of_slurm(head: str, variables: Mapping[str, str] = os.environ) -> Node:
    """This node, from what srun sets.

    Args:
        head: the first node's name; SLURM's own programs, which know it, need not be in a container.
    Raises:
        MachineError: srun did not start this process.
    """
    if "SLURM_NODEID" not in variables:
        raise MachineError("this starts the share of one node of a job; srun starts it")
    return Node(
        number=int(variables["SLURM_NODEID"]),
        nodes=int(variables["SLURM_JOB_NUM_NODES"]),
        name=variables["SLURMD_NODENAME"],
        head=head,
        job=variables["SLURM_JOB_ID"],
        start=int(variables.get("SLURM_RESTART_COUNT", "0")),
    )


def work(folder: RunFolder, node: Node) -> None:
    """Train with the ranks of this node, then verify on the first one.

    Raises:
        Stopped: all ranks stopped at a step that is saved.
        FinetuneError: what ended them.
    """
    stage = folder.stage
    with signals.heard() as request:
        if stage not in SAVED:
            _train(folder, node, request)
        if node.is_first and stage not in VERIFIED:
            _verify(folder)


def _train(folder: RunFolder, node: Node, request: Request) -> None:
    plan, before = frozen.read(folder), _newest(folder)
    launch = plan.config.launch
    if node.is_first:
        log.info("%s", _told(node, launch, plan.batches.ranks))
        # No rank of any node starts before all nodes have met.
        torchrun.clear(folder)
    try:
        torchrun.start(folder, plan.batches.ranks // launch.nodes, node.meeting(launch), request)
    except RendezvousError as error:
        raise MachineError(_not_met(node, launch, error)) from None
    except Stopped:
        if request.by == "SIGUSR1" and _newest(folder) == before:
            raise MachineError(_too_short(launch)) from None
        raise


def _verify(folder: RunFolder) -> None:
    """In a fresh process, on the device that trained."""
    from finetune.artifacts import verify

    with folder.locked(), folder.logged():
        verify.run(folder)
        folder.reached("verified")
        log.info("verified in a fresh process: %s", folder.path)


def _newest(folder: RunFolder) -> Path | None:
    return next(iter(checkpoint.found(folder / "checkpoints")), None)


def _told(node: Node, launch: LaunchConfig, ranks: int) -> str:
    """What a log of a job begins with."""
    set_here = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(SHOWN)]
    again = f", start {node.start + 1}" if node.start else ""
    where = f"{ranks} ranks on {node.nodes} nodes, which meet at {node.meeting(launch)['rdzv_endpoint']}"
    return f"job {node.job}{again}: {where}; {' '.join(set_here)}"


def _not_met(node: Node, launch: LaunchConfig, error: RendezvousError) -> str:
    """Why the nodes did not meet, as seen from this one."""
    where = node.meeting(launch)["rdzv_endpoint"]
    why = str(error.__cause__ or error).splitlines()[0]
    if node.is_first:
        return f"{node.name} cannot listen at {where}: {why}. Another port: launch.rdzv_port=29500"
    return (
        f"{node.name} did not meet the others at {where} within {launch.rdzv_timeout} s: {why}. Nodes must reach each "
        "other; launch.environment.NCCL_SOCKET_IFNAME and launch.rdzv_port name a way, launch.rdzv_timeout more time"
    )


def _too_short(launch: LaunchConfig) -> str:
    return (
        "the time limit came before a step was saved, and would again, so the job is not queued again. Write a longer "
        f"launch.time, or more than launch.grace_seconds={launch.grace_seconds}"
    )


def main() -> None:
    """Exits with the codes of the command line."""
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    log.setLevel(logging.INFO)
    path, head = sys.argv[1:]
    folder, node = find(path), None
    try:
        node = of_slurm(head)
        work(folder, node)
    except (FinetuneError, Stopped) as error:
        _say(folder, node, error)
        sys.exit(error.exit_code)
    except Exception as error:
        traceback.print_exc()
        _say(folder, node, error)
        sys.exit(OUR_FAULT)
    sys.exit(DONE)


def _say(folder: RunFolder, node: Node | None, error: BaseException) -> None:
    """The first node speaks of what ended a rank anywhere; another only of what none of them can know."""
    if node is None or node.is_first:
        folder.failed(error)
    elif peers.first_failure(folder / "ranks"):
        return
    print(f"finetune: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
