"""Processes that the user started: `torchrun -m finetune train …`, `accelerate launch -m …`, `srun finetune train …`.

The first of them composes, prepares and freezes, as one process does; the others wait for the folder of the run, which
comes through the store of the rendezvous. None of the others reads a recipe.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.config.launch import LOCAL, RANK, TORCHRUN, LaunchConfig
from finetune.errors import OUR_FAULT, MachineError, UserError
from finetune.plan.run_folder import RunFolder
from finetune.training import peers

KEY, POLL = "run", 0.2
LEAVE_TO_SPEAK = 3
"""Seconds: torchrun ends the first rank as soon as another one ends."""
SAYS_NOTHING = ("no", "false", "0", "default", "")
"""Values of accelerate's variables, in small letters, that overrule nothing."""


@dataclass(frozen=True)
class Place:
    """Which process this is, of how many."""

    rank: int
    ranks: int
    ranks_a_node: int


def place(variables: MutableMapping[str, str] = os.environ) -> Place | None:
    """This process's place, or None where it is alone."""
    _from_slurm(variables)
    for name in [name for name, value in variables.items() if name.startswith("ACCELERATE_")]:
        if variables[name].lower() in SAYS_NOTHING:
            del variables[name]
    ranks = int(variables.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return None
    return Place(int(variables["RANK"]), ranks, int(variables.get("LOCAL_WORLD_SIZE", ranks)))


def _from_slurm(variables: MutableMapping[str, str]) -> None:
    """What torchrun would set, from what srun sets. The port follows from job and step, so that two jobs differ."""
    if "RANK" in variables or int(variables.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return
    job, step = int(variables["SLURM_JOB_ID"]), int(variables.get("SLURM_STEP_ID", "0"))
    each = variables["SLURM_STEP_TASKS_PER_NODE"].partition("(")[0].partition(",")[0]
    found = {
        "RANK": variables["SLURM_PROCID"],
        "LOCAL_RANK": variables["SLURM_LOCALID"],
        "WORLD_SIZE": variables["SLURM_STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": each,
        "MASTER_ADDR": _first_host(variables["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(20000 + (job * 7 + step) % 20000),
    }
    variables.update({name: value for name, value in found.items() if name not in variables})


def _first_host(nodes: str) -> str:
    """Task 0 of a step is on its first node."""
    shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True)
    if shown.returncode:
        raise MachineError(f"scontrol cannot name the hosts of {nodes}: {shown.stderr.strip()}. Set MASTER_ADDR")
    return shown.stdout.split()[0]


def chosen(given: LaunchConfig, found: Place) -> LaunchConfig:
    """The launch that these processes are, so that the run's config says how many trained it.

    Raises:
        UserError: the recipe says another number.
    """
    nodes = found.ranks // found.ranks_a_node
    if found.ranks % found.ranks_a_node:
        raise UserError(
            f"{found.ranks} processes, of which {found.ranks_a_node} on this machine: write the same number on each"
        )
    for name, value in {"nodes": nodes, "nproc_per_node": found.ranks_a_node}.items():
        asked = getattr(given, name)
        if given.method != LOCAL and asked not in ("auto", value):
            raise UserError(
                f"launch.{name}={asked}, but this was started with {value}. Leave launch out, or start as many"
            )
    return replace(given, method=TORCHRUN, nproc_per_node=found.ranks_a_node, nodes=nodes)


class First:
    """The first rank's side: alone while it plans, then one of all."""

    def __init__(self) -> None:
        self.store, self.has_told = _store(), False
        self.hidden = {name: os.environ.pop(name) for name in RANK if name in os.environ}

    def tell(self, folder: RunFolder) -> None:
        """Let the others in on the run."""
        peers.clear(folder / "ranks")
        os.environ.update(self.hidden)
        self._say({"folder": str(folder.path.absolute())})

    def _say(self, what: dict[str, Any]) -> None:
        self.has_told = True
        self.store.set(KEY, json.dumps(what))

    @contextmanager
    def telling(self) -> Iterator[None]:
        """What ends this rank before there is a run ends the others, who say nothing of it."""
        try:
            yield
        except BaseException as error:
            if not self.has_told:
                self._say({"code": getattr(error, "exit_code", OUR_FAULT)})
                time.sleep(2 * POLL)  # the store may go with this process
            raise


def folder_of_run() -> RunFolder:
    """Wait for the first rank's plan, however long it takes.

    Raises:
        SystemExit: there will be none; the first rank says why.
    """
    store = _store()
    while not store.check([KEY]):
        time.sleep(POLL)
    said = json.loads(store.get(KEY))
    if "code" in said:
        time.sleep(LEAVE_TO_SPEAK)
        raise SystemExit(said["code"])
    return RunFolder(Path(said["folder"]))


_kept: list[Any] = []


def _store() -> Any:
    """The store that the process group will use as well; kept, because it goes with its last user."""
    from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

    store, _, _ = next(iter(rendezvous("env://")))
    _kept.append(store)
    return PrefixStore(f"finetune/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
