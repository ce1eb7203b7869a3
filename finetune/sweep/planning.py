"""Points planned before any is trained, in a process of its own: what planning holds of a device ends with it.

python -m finetune.sweep.planning SWEEP

Data is prepared here, once for all points that share it.
"""

import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from finetune.errors import OUR_FAULT, USER, FinetuneError, MachineError, UserError
from finetune.sweep.folder import PLANNED, SweepFolder
from finetune.sweep.points import FOLDER

Found = dict[str, Any]
"""Of a point: its steps, evaluations and score; or why it cannot be trained."""


def plan(folder: SweepFolder, words: dict[str, list[str]]) -> dict[str, Found]:
    """Plan points that lie in the folder; hash to what was found.

    Args:
        words: hash to the overrides of each point, to name it by.
    Raises:
        UserError, MachineError: points that cannot be trained, all of them.
    """
    done = subprocess.run([sys.executable, "-m", "finetune.sweep.planning", str(folder.path)])
    said = folder.read(PLANNED)
    if done.returncode or said is None:
        raise MachineError(f"the points could not be planned: the process that does ended with {done.returncode}")
    # A folder may hold points of an attempt before.
    found: dict[str, Found] = {digest: said["points"][digest] for digest in words}
    failed = {digest: each for digest, each in found.items() if "failed" in each}
    if failed:
        lines = [f"  {' '.join(words[digest])}: {each['failed']}" for digest, each in failed.items()]
        kind = UserError if any(each["code"] == USER for each in failed.values()) else MachineError
        raise kind(f"{len(failed)} of {len(found)} planned points cannot be trained\n" + "\n".join(lines))
    return found


def main() -> None:
    """Plan all points of a sweep, and write what was found."""
    quieten()
    logging.getLogger("finetune").addHandler(logging.StreamHandler(sys.stdout))
    folder = SweepFolder(Path(sys.argv[1]))
    found = {file.stem: _planned(file) for file in sorted((folder / FOLDER).glob("*.yaml"))}
    folder.write(PLANNED, {"accelerators": _accelerators(), "points": found})


def quieten() -> None:
    """In a process of a sweep's own: our lines, and not the libraries' advice."""
    # It speaks of a missing optional kernel at import, whether or not anything is quantized.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("finetune").setLevel(logging.INFO)


def _planned(file: Path) -> Found:
    from finetune.config.check import read
    from finetune.config.origin import values
    from finetune.plan.catalogue import refuse_failed
    from finetune.plan.planned import planned

    try:
        made, _ = planned(read(values(file)))
        refuse_failed(made.checks)
    except FinetuneError as error:
        return {"failed": str(error), "code": error.exit_code or OUR_FAULT}
    score, greater = made.config.task.score(made.facts)
    wanted = made.config.evaluation.metrics
    return {
        "steps": made.batches.total_steps,
        "evaluations": made.batches.evaluations,
        "score": [score, greater] if wanted is None or score in wanted else ["loss", False],
        "trainable": made.model.trainable,
        "rows": made.rows,
        "duration": made.costs.duration,
    }


def _accelerators() -> int:
    from finetune.models.processes import accelerators

    return accelerators()


if __name__ == "__main__":
    main()
