"""The processes that train together: who this one is, and how all of them agree. Knows nothing of models or files.

Every function is a no-op of one process where there is no process group, so that callers need no second path.
"""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from finetune.errors import FinetuneError


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them; before they have met, the one it was started with."""
    if world_size() > 1:
        return dist.get_rank()
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return rank() == 0


def gather(value: Any) -> list[Any]:
    """Every rank's value, by rank, on every rank; returns when all have come."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_processors())
    return values


def of_first(value: Any) -> Any:
    """The value of rank 0, on every rank."""
    return gather(value)[0]


def spread(pieces: Sequence[Any], do: Callable[[Any], Any]) -> list[Any]:
    """Each piece done by one rank; every result, in the order of the pieces, on every rank.

    All ranks do equally many, at the end the last one again: a model in shares computes on all of them at once.
    """
    count, last = world_size(), len(pieces) - 1
    own = [do(pieces[min(at + rank(), last)]) for at in range(0, len(pieces), count)]
    every = gather(own)
    return [every[at % count][at // count] for at in range(len(pieces))]


def any_of(flag: bool) -> bool:
    """Whether the flag is up on any rank."""
    return any_of_each([flag])[0]


def any_of_each(flags: Sequence[bool]) -> list[bool]:
    """Which flags are up on any rank. Asked of the processors alone, so that no accelerator is waited for."""
    if world_size() == 1:
        return list(flags)
    shared = torch.tensor([int(flag) for flag in flags])
    dist.all_reduce(shared, dist.ReduceOp.MAX, group=_processors())
    return [bool(flag) for flag in shared.tolist()]


def attempt(action: Callable[[], Any]) -> tuple[Any, str | None]:
    """Do it on this rank; the first failure of any rank, with its number, is known to all of them.

    Returns:
        What the action gave here, and what went wrong anywhere.
    """
    result, error = None, None
    try:
        result = action()
    except Exception as failure:
        error = reason(failure)
    failures = [(number, each) for number, each in enumerate(gather(error)) if each]
    if not failures:
        return result, None
    number, first = failures[0]
    return None, first if world_size() == 1 else f"rank {number}: {first}"


def reason(failure: BaseException) -> str:
    """One line that says what went wrong."""
    if isinstance(failure, FinetuneError):
        return str(failure)
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror
    lines = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0]}" if lines else type(failure).__name__


@cache
def _processors() -> Any:
    """A group over gloo: flags and small objects pass between processors whatever the gradients pass through."""
    return dist.new_group(backend="gloo", timeout=timedelta(minutes=30))
