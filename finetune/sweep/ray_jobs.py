"""Trials as jobs of Ray: submitted under a name that is kept first, so that whoever comes after finds them.

Folders, rows and the interpreter are the same on all machines of the cluster. Knows nothing of sweeps.
"""

import os
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

from finetune.config.launch import LaunchConfig
from finetune.errors import MachineError, MissingExtra
from finetune.launch.following import EVERY
from finetune.sweep.outcome import SAID
from finetune.sweep.processes import Handle, Start

NEVER_BEGAN = (
    "RUNTIME_ENV_SETUP_FAILURE", "JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "JOB_SUPERVISOR_ACTOR_START_FAILURE",
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE",
)  # fmt: skip
"""Ray's words for a job of which no process was started, and which would be none if it was submitted again."""
FAILED = (RuntimeError, OSError)
"""What Ray's client raises: where a request fails, and where nobody answers it (errors of requests are OSErrors)."""
CACHES = ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE")
"""What of this environment a trial has as well. No credentials: Ray shows to everybody what a job has."""


class RayJobs:
    """Jobs of one Ray cluster."""

    starts_several = False

    def __init__(self, launch: LaunchConfig) -> None:
        """Find the cluster.

        Raises:
            MissingExtra: Ray is not installed.
            MachineError: no cluster answers.
        """
        self.launch, self.client = launch, _client(launch.address)
        self.known: dict[str, tuple[bool, float]] = {}
        """Whether each job was active, and when it was asked for."""

    def start(self, starts: Sequence[Start]) -> tuple[list[Handle], Any]:
        """A name for each job; nothing is submitted yet."""
        asked = [self._asked(each) for each in starts]
        names = [each["submission_id"] for each in asked]
        return [{"ray": name, "log": str(each.log)} for name, each in zip(names, starts, strict=True)], asked

    def _asked(self, start: Start) -> dict[str, Any]:
        python = [self.launch.python] if self.launch.python else start.command[:1]
        words = shlex.join([*python, *start.command[1:]])
        # exec: a signal is for the run, not for a shell around it.
        entry = f"cd {shlex.quote(str(Path.cwd()))} && exec {words} >> {shlex.quote(str(start.log))} 2>&1 < /dev/null"
        here = {name: os.environ[name] for name in CACHES if name in os.environ}
        # Ray itself would kill what has not ended after three seconds.
        stated = {**here, **start.variables, "RAY_JOB_STOP_WAIT_TIME_S": str(self.launch.grace_seconds)}
        asked = {"entrypoint": entry, "submission_id": f"finetune-{uuid4().hex}", "runtime_env": {"env_vars": stated}}
        return asked | self._resources()

    def _resources(self) -> dict[str, Any]:
        launch = self.launch
        memory = launch.mebibytes and int(launch.mebibytes * 2**20)
        found = {"num_gpus": launch.gpus, "num_cpus": launch.cpus_per_node, "memory": memory}
        return {f"entrypoint_{name}": value for name, value in found.items() if value}

    def begin(self, waiting: Any) -> None:
        """Submit the jobs, now that their names are kept.

        Raises:
            MachineError: Ray refuses it.
        """
        try:
            for each in waiting:
                self.client.submit_job(**each)
        except FAILED as error:
            raise MachineError(f"Ray refuses the job of a trial: {_first_line(error)}") from None

    def is_running(self, handle: Handle) -> bool:
        """Whether the job waits or runs; where Ray does not answer for now, as before. Ray is not asked too often."""
        name = handle["ray"]
        was_active, asked = self.known.get(name, (True, float("-inf")))
        if was_active and time.monotonic() - asked >= EVERY:
            self.known[name] = (self._is_active(handle), time.monotonic())
        return self.known[name][0]

    def _is_active(self, handle: Handle) -> bool:
        try:
            found = self.client.get_job_info(handle["ray"])
        except FAILED as error:
            # 404: there is no such job. It was not submitted, or the head of the cluster began anew.
            return f"status code {HTTPStatus.NOT_FOUND:d}" not in str(error)
        if (found.error_type or "") in NEVER_BEGAN:
            with Path(handle["log"]).open("a", encoding="utf-8") as log:
                log.write(f"{SAID}Ray did not start it: {found.message}\n")
        return not found.status.is_terminal()

    def stop(self, handle: Handle) -> None:
        """Ask its processes: Ray sends SIGTERM to all of them."""
        with suppress(*FAILED):  # it has ended meanwhile, or Ray does not answer
            self.client.stop_job(handle["ray"])

    def end(self, handle: Handle) -> None:
        """Ray ends what is left of a job, whatever becomes of its first process."""
        if handle and self.is_running(handle):
            self.stop(handle)


def _client(address: str | None) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    try:
        return JobSubmissionClient(address)
    except (*FAILED, ValueError) as error:
        where = address or "RAY_ADDRESS or this machine"
        raise MachineError(
            f"launch=ray: no cluster of Ray answers at {where}: {_first_line(error)}. Write "
            "launch.address=http://HEAD:8265, or start one here: ray start --head"
        ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
