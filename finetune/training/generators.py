"""Random generators: seeded each for its purpose, kept in a checkpoint, put back. Knows nothing of models or files."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed(number: int) -> None:
    """Seed every generator a model may draw from.

    Args:
        number: taken modulo 2**32, which is what NumPy accepts.
    """
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def mixed(*numbers: int) -> int:
    """One seed from several numbers, in which every one of them counts."""
    counted = [len(numbers), *(number % 2**64 for number in numbers)]
    return int(np.random.SeedSequence(counted).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def borrowed(number: int) -> Iterator[None]:
    """The processor's generators seeded for a moment, and as they were afterwards."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(number)
        np.random.seed(number % 2**32)
        torch.default_generator.manual_seed(number)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)


def states() -> dict[str, Any]:
    """The state of every random generator a training step may draw from."""
    kept = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.accelerator.is_available():
        kept["accelerator"] = torch.get_device_module().get_rng_state()
    return kept


def restore(kept: dict[str, Any]) -> None:
    """Put them back."""
    random.setstate(kept["python"])
    np.random.set_state(kept["numpy"])
    torch.set_rng_state(kept["torch"])
    if "accelerator" in kept and torch.accelerator.is_available():
        torch.get_device_module().set_rng_state(kept["accelerator"])
