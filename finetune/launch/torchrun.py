"""The ranks of one machine, started by torchrun's own engine; their end, in one message and one exit code.

Started is `python -m finetune.worker RUN`, once a rank. A signal to this process is passed on to all of them, which
agree on a step, save it and stop. Where one fails, the others end within seconds.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig as Elastic
from torch.distributed.launcher.api import elastic_launch

from finetune.errors import BY_CODE, RESUMABLE, USER, FinetuneError, MachineError, Stopped
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder
from finetune.training import peers
from finetune.training.signals import Request

PATIENCE = 8
"""Seconds in which the others end by themselves once a rank has: peers take about four to notice."""
ALONE = {
    "min_nodes": 1,
    "max_nodes": 1,
    "run_id": uuid4().hex,
    "rdzv_endpoint": "localhost:0",
    "local_addr": "localhost",
}
"""How a machine meets itself."""


def work(folder: RunFolder, plan: Plan, request: Request) -> None:
    """Train with all ranks of the plan; returns when the model is saved.

    Raises:
        FinetuneError: of the kind and with the message of the rank that failed first.
    """
    clear(folder)
    start(folder, plan.batches.ranks, ALONE, request)


def clear(folder: RunFolder) -> None:
    """Forget the ranks of before."""
    peers.clear(folder / "ranks")
    (folder / "traceback.txt").unlink(missing_ok=True)


def start(folder: RunFolder, ranks: int, meeting: dict[str, Any], request: Request) -> None:
    """Start the ranks of this machine, and wait for their end.

    Args:
        meeting: where all machines meet, as torchrun names it.
    Raises:
        FinetuneError: of the kind and with the message of the rank that failed first.
    """
    elastic = Elastic(
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        max_restarts=0,
        # Ours are passed on; torchrun's would give the ranks no time for a checkpoint.
        signals_to_handle="SIGQUIT",
        shutdown_timeout=PATIENCE,
        **meeting,
    )
    try:
        with _passed_on(request, folder):
            elastic_launch(elastic, sys.executable)("-m", "finetune.worker", str(folder.path), "launched")
    except ChildFailedError as error:
        raise _what_failed(folder, error) from None


@contextmanager
def _passed_on(request: Request, folder: RunFolder) -> Iterator[None]:
    request.pass_on = lambda name: peers.ask(folder / "ranks", name)
    try:
        yield
    finally:
        request.pass_on = None


def _what_failed(folder: RunFolder, error: ChildFailedError) -> FinetuneError | Stopped:
    """The failure that came first, in its own words; a rank that was killed has none, and others only miss it."""
    killed = [(rank, -failure.exitcode) for rank, failure in error.failures.items() if failure.exitcode < 0]
    found = peers.first_failure(folder / "ranks")
    if killed and (found is None or found[2] not in BY_CODE):
        return MachineError(f"rank {killed[0][0]} is gone without a word: it ended by signal {killed[0][1]}")
    if found:
        rank, message, code = found
        where = f". Its traceback is in {folder / 'traceback.txt'}" if code not in BY_CODE else ""
        kind = BY_CODE.get(code, FinetuneError)
        return kind(message if code in (USER, RESUMABLE) else f"rank {rank}: {message}{where}")
    rank, failure = error.get_first_failure()
    said = f"what it said is above, or in {folder / 'ranks'}"
    return MachineError(f"rank {rank} ended by exit code {failure.exitcode} before it trained; {said}")
