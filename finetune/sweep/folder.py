"""The layout of a sweep's folder. What is known of a sweep lies in it, so that whoever goes on with it needs no more.

sweep.json      what was asked for when it began
recipe/         the recipe and what it inherits, as they were then
points/         each point as a recipe of its own, named by its hash
planned.json    what was found when the first points were planned
journal.log     the study, as Optuna's JournalFileBackend writes it; optuna-dashboard reads it
arrays/         trials that were queued at one moment, and the scripts of their arrays, where they are jobs of SLURM
trials/         N is the folder of a run, N.log what its process printed
sweep.csv       one line a trial
sweep.html      the same to be looked at
best.yaml       the best point as a recipe
log.txt         what was said, with the time
.lock           held by the process that works on the sweep
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.plan.run_folder import RunFolder

SWEEP, PLANNED = "sweep.json", "planned.json"


@dataclass(frozen=True)
class SweepFolder(RunFolder):
    """A folder that holds, or will hold, one sweep."""

    @property
    def recipe(self) -> Path:
        """Where the recipe is kept as it was."""
        return self.path / "recipe"

    @property
    def arrays(self) -> Path:
        """Where the trials that are queued together are written down."""
        return self.path / "arrays"

    def point(self, digest: str) -> Path:
        """A point as a recipe."""
        return self.path / "points" / f"{digest}.yaml"

    def trial(self, number: int, seed: int | None = None) -> RunFolder:
        """The run of a trial; of several seeds, that of one of them."""
        name = f"{number:03d}" if seed is None else f"{number:03d}-seed{seed}"
        return RunFolder(self.path / "trials" / name)

    def found(self) -> dict[str, Any] | None:
        """What the sweep here began with, or None where there is none yet."""
        began: dict[str, Any] | None = self.read(SWEEP)
        return began


def find(path: str) -> SweepFolder:
    """The sweep at a path.

    Raises:
        UserError: there is none.
    """
    folder = SweepFolder(Path(path).expanduser().absolute())
    if folder.found() is None:
        raise UserError(f"{path} is not the folder of a sweep (it has no {SWEEP}). Sweeps lie below runs/NAME/TIME.")
    return folder
