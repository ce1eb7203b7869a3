"""Where trackers keep their files, and whether they talk to anybody. Knows their environment, and no tracker."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder


@contextmanager
def tracked(plan: Plan, folder: RunFolder) -> Iterator[None]:
    """Trackers keep their files in the run's folder and stay offline, unless the recipe or the user says otherwise.

    They read where from the environment, which is put back: the next run of this process has a folder of its own.
    """
    settings = {
        "WANDB_PROJECT": plan.config.tracking.project,
        "WANDB_DIR": str(folder.path),
        "WANDB_LOG_MODEL": "false",
        "TRACKIO_DIR": str(folder / "trackio"),
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
    }
    if not plan.config.tracking.online:
        settings["WANDB_MODE"] = "offline"
    ours = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
