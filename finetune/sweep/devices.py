"""Accelerators lent to trials, each to one at a time. Knows no more than their names."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.errors import MachineError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def present(count: int, variables: Mapping[str, str] = os.environ) -> list[str]:
    """The names of the accelerators that this process may use: as they were given to it, or by number."""
    given = variables.get(VISIBLE)
    return [name.strip() for name in given.split(",")][:count] if given else [str(number) for number in range(count)]


@dataclass
class Pool:
    """What is free, and how much of it a trial takes; with nothing to lend, only how many trials there may be."""

    free: list[str]
    per_trial: int
    places: int
    most: int
    """Trials at a time."""
    is_processor: bool
    """Whether there is none of them."""

    @classmethod
    def of(cls, names: Sequence[str], per_trial: int, jobs: int | None) -> "Pool":
        """A pool of `names`.

        Args:
            jobs: trials at a time; None is as many as there are devices for, and one without any.
        Raises:
            MachineError: there are fewer devices.
        """
        if per_trial > len(names):
            raise MachineError(f"sweep.devices_per_trial={per_trial}: this machine has {_counted(names)}")
        most = len(names) // per_trial if per_trial else None
        if jobs and most and jobs > most:
            raise MachineError(
                f"sweep.n_jobs={jobs} trials with {per_trial} devices each, and this machine has {_counted(names)}. "
                f"Write sweep.n_jobs={most}; with sweep.devices_per_trial=0 trials share devices"
            )
        places = jobs or most or 1
        return cls(list(names), per_trial, places, places, not names)

    @classmethod
    def of_queue(cls, jobs: int) -> "Pool":
        """A cluster lends its devices itself."""
        return cls([], 0, jobs, jobs, False)

    @property
    def has_room(self) -> bool:
        """Whether one more trial can be started."""
        return self.places > 0 and len(self.free) >= self.per_trial

    def lend(self) -> list[str]:
        """Devices for a trial; none where trials share them."""
        self.places -= 1
        lent, self.free = self.free[: self.per_trial], self.free[self.per_trial :]
        return lent

    def lend_again(self, devices: Sequence[str]) -> None:
        """Remember what a trial that runs already has."""
        self.places -= 1
        self.free = [name for name in self.free if name not in devices]

    def take_back(self, devices: Sequence[str]) -> None:
        """A trial has ended."""
        self.places += 1
        self.free = sorted([*self.free, *devices], key=lambda name: (len(name), name))


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} of them" if names else "none"
