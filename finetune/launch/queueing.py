"""From a frozen plan to the queue of a cluster: the weights fetched, the script written, the job submitted.

The last that is done on the front end. Knows plans and scripts; nothing of what becomes of the job.
"""

import logging
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from finetune.config.launch import KUBERNETES, SKYPILOT, SLURM, LaunchConfig
from finetune.errors import Stopped
from finetune.launch import kubernetes, sbatch, skypilot, slurm
from finetune.launch.jobs import JOB
from finetune.models import source
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder
from finetune.training.signals import Request

log = logging.getLogger(__name__)

MANIFESTS = {KUBERNETES: kubernetes.of_plan, SKYPILOT: skypilot.of_plan}
"""Jobs that others submit."""
WRITTEN = (SLURM, *MANIFESTS)
"""Jobs that can be shown before they are submitted."""
SUBMIT = {KUBERNETES: "| kubectl apply -f -", SKYPILOT: "> run.yaml && sky launch run.yaml"}


def queue(folder: RunFolder, plan: Plan, request: Request) -> None:
    """Write the script of a run and queue it; returns at once.

    Raises:
        UserError: SLURM refuses what is asked for.
        MachineError: SLURM does not answer.
        Stopped: that was asked for meanwhile, and the job is cancelled.
    """
    prepare(folder, plan)
    submit(folder.path.absolute() / slurm.SCRIPT, [folder], request)
    if plan.config.publish.to != "none" and not plan.config.launch.follow:
        log.info("nodes do not ask the Hub; once it is verified, publish it with: finetune publish %s", folder.path)


def prepare(folder: RunFolder, plan: Plan) -> None:
    """Fetch the weights of a run and write its script."""
    if not plan.config.model.from_config:
        source.fetch(plan.source)
    folder.write_text(slurm.SCRIPT, sbatch.of_plan(plan, folder.path.absolute()))


def submit(script: Path, folders: Sequence[RunFolder], request: Request) -> None:
    """Queue a script, that of a run or of an array of several.

    Raises:
        UserError: SLURM refuses what is asked for.
        MachineError: SLURM does not answer.
        Stopped: that was asked for meanwhile, and the job is cancelled.
    """
    # A signal waits until it is written down that there is a job.
    request.pass_on = lambda _: None
    try:
        number = slurm.submit(script)
        for task, folder in enumerate(folders):
            own = number if len(folders) == 1 else f"{number}_{task}"
            folder.write(JOB, {"number": own, "submitted": datetime.now().isoformat(timespec="seconds")})
            log.info("job %s is queued: %s", own, folder / slurm.SCRIPT)
    finally:
        request.pass_on = None
    if request.by:
        slurm.cancel(number)
        raise Stopped(f"stopped by {request.by}")


def rehearsed(plan: Plan) -> tuple[str, str]:
    """What would be submitted, and what is to be said of it: by SLURM itself, where that is here.

    Raises:
        UserError: SLURM refuses what is asked for, or the run needs what is not there.
    """
    config = plan.config
    if write := MANIFESTS.get(config.launch.method):
        return write(plan), submitted_by(config.launch)
    folder = Path(config.run_folder or Path(config.output_dir) / config.name / "TIME").expanduser().absolute()
    text = sbatch.of_plan(plan, folder)
    if not shutil.which("sbatch"):
        return text, "not validated: there is no sbatch on this machine"
    return text, slurm.check(text)


def submitted_by(launch: LaunchConfig) -> str:
    """The command that submits what was written."""
    method = launch.method
    return f"It is submitted with: finetune train recipe=… launch={method} --dry-run {SUBMIT[method]}"
