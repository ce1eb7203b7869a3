"""Trials as jobs of a real SLURM: known again by whoever comes after, ended with the process or with the job."""

import json
import sys
import time

import pytest
import tiny_runs

from finetune.errors import UserError
from finetune.launch import slurm as queue
from finetune.sweep import beginning
from finetune.sweep.queued import Queued

SUBMITS = """
import json, pathlib, subprocess, sys, time
time.sleep({before})
said = subprocess.run(["sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep {job}"], capture_output=True)
pathlib.Path({run!r}, "job.json").write_text(json.dumps({{"number": said.stdout.decode().strip(), "submitted": ""}}))
"""


def started(run, before=0.0, job=60.0):
    """The handle of a trial whose process waits a while, and queues a job that sleeps."""
    run.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SUBMITS.format(before=before, job=job, run=str(run))]
    launcher = Queued()
    handle, gate = launcher.start(command, run / "log", {}, run)
    launcher.begin(gate)
    return json.loads(json.dumps(handle))


def number(run):
    """The number of the job, once it is queued."""
    for _ in range(300):
        if (run / "job.json").is_file():
            return json.loads((run / "job.json").read_text())["number"]
        time.sleep(0.1)
    raise AssertionError((run / "log").read_text())


def has_ended(handle):
    launcher = Queued()
    for _ in range(300):
        if not launcher.is_running(handle):
            return True
        time.sleep(0.1)
    return False


def test_a_trial_runs_until_its_job_has_ended_whoever_asks_and_wherever(slurm, tmp_path):
    handle = started(tmp_path / "run", job=1)
    assert Queued().is_running(handle)
    job = number(tmp_path / "run")
    elsewhere = handle | {"host": "another login node"}
    assert Queued().is_running(elsewhere)
    assert has_ended(elsewhere)
    assert queue.state(job) == "COMPLETED"


def test_a_trial_that_is_stopped_leaves_no_job(slurm, tmp_path):
    handle = started(tmp_path / "run")
    job = number(tmp_path / "run")
    Queued().stop(handle)
    assert has_ended(handle)
    assert queue.state(job) == "CANCELLED"
    Queued().end(handle)


def test_a_trial_that_is_stopped_before_it_is_queued_queues_nothing(slurm, tmp_path):
    handle = started(tmp_path / "run", before=60)
    Queued().stop(handle)
    assert has_ended(handle)
    assert not (tmp_path / "run" / "job.json").exists()


def test_the_job_of_a_start_before_is_not_that_of_the_one_that_follows(slurm, tmp_path):
    first = started(tmp_path / "run", job=0)
    old = number(tmp_path / "run")
    assert has_ended(first)
    handle = started(tmp_path / "run", before=1)
    assert Queued().is_running(handle)
    while (job := number(tmp_path / "run")) == old:
        time.sleep(0.1)
    Queued().end(handle)
    assert has_ended(handle)
    assert queue.state(job) == "CANCELLED"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["launch.partition=nope"], "invalid partition"),
        (["sweep.devices_per_trial=1"], "launch.gpus_per_node"),
        (["launch=choice(local,slurm)"], "launched alike"),
    ],
)
def test_what_no_job_could_train_is_refused_before_a_point_is_planned(words, said, slurm):
    space = "trainer.learning_rate=choice(1e-3,1e-4)"
    launched = [] if any(word.startswith("launch=") for word in words) else ["launch=slurm"]
    with pytest.raises(UserError, match=said):
        beginning.asked(tiny_runs.classify(space, *launched, *words))
