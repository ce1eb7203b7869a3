"""Runs as jobs of a real SLURM with two nodes on this host: what was queued is what runs, and its end is told."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import tiny_runs
from safetensors.torch import load_file
from slurm_sandbox import NODES

from finetune import run
from finetune.config.launch import LaunchConfig
from finetune.errors import MachineError, UserError
from finetune.launch import arrays, following, job, jobs, sbatch
from finetune.launch import slurm as queue
from finetune.launch.arrays import Prepared
from finetune.launch.job import Node
from finetune.plan.run_folder import RunFolder
from finetune.sweep import beginning
from finetune.sweep.processes import Start
from finetune.sweep.queued import Queued
from finetune.training.signals import Request

STEPS = 150
SMALL = (
    "evaluation.baseline=false", f"trainer.max_steps={STEPS}", "trainer.save_strategy=steps",
    "trainer.save_steps=1000", "trainer.per_device_train_batch_size=4", "global_batch_size=8",
    "checkpoint.rehearse=false", "trainer.learning_rate=1e-4", "trainer.optim=sgd",
)  # fmt: skip
ONE_NODE = ("launch=slurm", "launch.nproc_per_node=1", "global_batch_size=4")
TWO_NODES = ("launch=slurm", "launch.nodes=2", "launch.nproc_per_node=1")
HELD = "launch.sbatch={hold: true}"
SECONDS = 240


def queued(folder: Path, *more: str) -> RunFolder:
    """Composed, prepared, planned and queued in this process; the nodes find the rows in the same store."""
    with tiny_runs.own_caches():
        return run.run(tiny_runs.config([*tiny_runs.classify(*SMALL, *more), f"run_folder={folder}"]))


def control(*words: str) -> None:
    subprocess.run(["scontrol", *words], check=True, capture_output=True)


def followed(folder: RunFolder) -> str:
    """What the job said until it ended well."""
    said: list[str] = []
    following.follow(folder, said.append, seconds=0.2)
    return "".join(said)


def waited(folder: RunFolder, is_so) -> None:
    """Wait until something holds of a job."""
    for _ in range(10 * SECONDS):
        if is_so():
            return
        time.sleep(0.1)
    number = jobs.of(folder).number
    shown = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True)
    raise AssertionError((folder.path / f"job-{number}.log").read_text() + shown.stdout + shown.stderr)


def start_again(folder: RunFolder) -> None:
    """Begin a job that is queued again. SLURM itself waits two minutes, until nothing of the first start is left."""
    number = jobs.of(folder).number
    waited(folder, lambda: not has_script(number))
    control("update", f"JobId={number}", "StartTime=now")


def has_script(number: str) -> bool:
    """Whether a script of the job runs: its end would be taken for that of the next one."""
    shown = subprocess.run(["scontrol", "show", "job", number], check=True, capture_output=True, text=True).stdout
    number = shown.split()[0].removeprefix("JobId=")  # a task of an array has a number of its own here
    sandbox = f"SLURM_CONF={os.environ['SLURM_CONF']}"
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # gone by now
            variables = file.with_name("environ").read_bytes()
            if f"slurmstepd: [{number}.batch]".encode() in file.read_bytes() and sandbox.encode() in variables:
                return True
    return False


def weights(folder: RunFolder) -> dict:
    return load_file(folder / "model" / "model.safetensors")


def steps(folder: RunFolder) -> list[int]:
    file = folder / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.fixture(scope="module")
def two(slurm, tmp_path_factory) -> RunFolder:
    """A job of two nodes, whose recipe was changed while it waited."""
    folder, recipe = tmp_path_factory.mktemp("two runs") / "run", tmp_path_factory.mktemp("recipe") / "mine.yaml"
    recipe.write_text("# @package _global_\nseeds: {data: 7}\n")
    found = queued(folder, f"recipe={recipe}", *TWO_NODES, HELD)
    recipe.write_text("# @package _global_\nseeds: {data: 8}\n")
    control("release", jobs.of(found).number)
    followed(found)
    return found


def test_two_nodes_train_what_was_queued_and_what_one_process_would(two, tmp_path):
    assert two.stage == "verified"
    assert jobs.of(two).state == "COMPLETED"
    assert json.loads((two / "plan.json").read_text())["config"]["seeds"]["data"] == 7
    one = tiny_runs.classify(*SMALL, "seeds.data=7", f"run_folder={tmp_path / 'one'}")
    alone = weights(tiny_runs.worked(one, tmp_path))
    assert all((alone[name] - value).abs().max() < 1e-6 for name, value in weights(two).items())


def test_a_job_that_is_asked_to_stop_is_queued_again_and_ends_with_the_same_weights(two, tmp_path):
    folder = queued(tmp_path / "run", "seeds.data=7", *TWO_NODES)
    number = jobs.of(folder).number
    waited(folder, lambda: steps(folder))
    subprocess.run(["scancel", "--signal=USR1", number], check=True)
    waited(folder, lambda: queue.state(number) == "PENDING")
    assert 0 < max(steps(folder)) < STEPS
    with pytest.raises(UserError, match=rf"is job {number}, which is PENDING"):
        queued(tmp_path / "run", "seeds.data=7", *TWO_NODES)
    start_again(folder)
    said = followed(folder)
    assert f"job {number}, start 2: 2 ranks on 2 nodes" in said
    assert "going on from" in said
    assert all(value.equal(weights(two)[name]) for name, value in weights(folder).items())


def test_a_job_that_fails_is_failed_in_the_queue_and_tells_its_error_as_if_it_were_here(slurm, tmp_path):
    folder = queued(tmp_path / "run", "trainer.learning_rate=1e30", *ONE_NODE)
    with pytest.raises(UserError, match="loss is nan"):
        followed(folder)
    assert jobs.of(folder).state == "FAILED"
    assert queue.code(jobs.of(folder).number) == 2
    (line,) = jobs.lines(jobs.listed(tmp_path))
    assert "FAILED" in line
    assert "loss is nan" in line


def test_a_cancelled_job_is_noticed_within_ten_seconds(slurm, tmp_path):
    folder = queued(tmp_path / "run", HELD, *TWO_NODES)
    assert "is cancelled" in jobs.cancelled(str(folder.path))
    begun = time.monotonic()
    with pytest.raises(MachineError, match=r"is CANCELLED.*finetune resume"):
        following.follow(folder, lambda _: None)
    assert time.monotonic() - begun < 10
    with pytest.raises(UserError, match="nothing to cancel"):
        jobs.cancelled(str(folder.path))


@pytest.mark.parametrize(
    ("asked", "said"),
    [("launch.partition=nope", "invalid partition"), ("launch.nodes=9", "node configuration is not available")],
)
def test_what_the_cluster_refuses_is_told_before_anything_is_prepared(asked, said, slurm, tmp_path):
    with pytest.raises(UserError, match=said):
        queued(tmp_path / "run", *ONE_NODE, asked)
    assert not (tmp_path / "run").exists()


def test_a_port_in_use_is_one_message_and_no_one_is_left(slurm, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        folder = queued(tmp_path / "run", *ONE_NODE, f"launch.rdzv_port={taken.getsockname()[1]}")
        with pytest.raises(MachineError, match=r"cannot listen at .*launch.rdzv_port"):
            followed(folder)
    assert not [process for process in commands() if str(folder.path) in process]


def commands() -> list[str]:
    """The command lines of all processes."""
    files = Path("/proc").glob("[0-9]*/cmdline")
    return [read.decode().replace("\0", " ") for file in files if (read := content(file))]


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_a_head_node_that_cannot_be_reached_is_told_by_the_one_that_waits(tmp_path):
    arguments = tiny_runs.classify(*SMALL, *TWO_NODES, "launch.rdzv_timeout=2", f"run_folder={tmp_path / 'run'}")
    with tiny_runs.own_caches():
        made, prepared = run.planned(tiny_runs.config(arguments))
    folder = run.frozen_folder(made, prepared)
    lost = Node(number=1, nodes=2, name="localhost", head="127.0.0.1", job=str(os.getpid()), start=0)
    with pytest.raises(MachineError, match=r"did not meet the others at 127.0.0.1:\d+ within 2 s"):
        job.work(folder, lost)


# Trials of a sweep as jobs. In this file, so that one process of the tests has a SLURM and not two.


def launching_trials(arrays: Path = Path("arrays")) -> Queued:
    """As a parent would that knows nothing yet."""
    return Queued("mine", arrays)


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
    launcher = launching_trials()
    (handle,), gate = launcher.start([Start(command, run / "log", {}, run)])
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
    launcher = launching_trials()
    for _ in range(300):
        if not launcher.is_running(handle):
            return True
        time.sleep(0.1)
    return False


def test_a_trial_runs_until_its_job_has_ended_whoever_asks_and_wherever(slurm, tmp_path):
    handle = started(tmp_path / "run", job=1)
    assert launching_trials().is_running(handle)
    job = number(tmp_path / "run")
    elsewhere = handle | {"host": "another login node"}
    assert launching_trials().is_running(elsewhere)
    assert has_ended(elsewhere)
    assert queue.state(job) == "COMPLETED"


def test_a_trial_that_is_stopped_leaves_no_job(slurm, tmp_path):
    handle = started(tmp_path / "run")
    job = number(tmp_path / "run")
    launching_trials().stop(handle)
    assert has_ended(handle)
    assert queue.state(job) == "CANCELLED"
    launching_trials().end(handle)


def test_a_trial_that_is_stopped_before_it_is_queued_queues_nothing(slurm, tmp_path):
    handle = started(tmp_path / "run", before=60)
    launching_trials().stop(handle)
    assert has_ended(handle)
    assert not (tmp_path / "run" / "job.json").exists()


def test_the_job_of_a_start_before_is_not_that_of_the_one_that_follows(slurm, tmp_path):
    first = started(tmp_path / "run", job=0)
    old = number(tmp_path / "run")
    assert has_ended(first)
    handle = started(tmp_path / "run", before=1)
    assert launching_trials().is_running(handle)
    while (job := number(tmp_path / "run")) == old:
        time.sleep(0.1)
    launching_trials().end(handle)
    assert has_ended(handle)
    assert queue.state(job) == "CANCELLED"


def trial(folder: Path, *words: str) -> Start:
    """A run as a sweep starts it."""
    folder.mkdir(parents=True)
    arguments = tiny_runs.classify(*SMALL, *ONE_NODE, "trainer.max_steps=3", *words, f"run_folder={folder}")
    command = [sys.executable, "-m", "finetune", "train", *arguments]
    return Start(command, folder.with_suffix(".log"), {}, folder)


def queued_together(starts: list[Start], place: Path) -> list[dict]:
    """Their handles, once the process that queues them has ended."""
    with tiny_runs.own_caches():
        handles, gate = launching_trials(place).start(starts)
        launching_trials().begin(gate)
        (process,) = gate
        assert process.wait(SECONDS) == 0, (place / "000" / "log.txt").read_text()
    return handles


def test_trials_that_begin_together_are_an_array_and_each_is_a_job_of_its_own(slurm, tmp_path):
    asked = [("seed=1",), ("seed=2",), ("seed=3", "launch.mem=2000M"), ("seed=4", "trainer.max_steps=0.5")]
    starts = [trial(tmp_path / "trials" / f"00{at}", HELD, *words) for at, words in enumerate(asked)]
    handles = queued_together(starts, tmp_path / "arrays")
    assert launching_trials().is_running(handles[0])
    assert not launching_trials().is_running(handles[3])
    assert "finetune: " in starts[3].log.read_text()
    found = {job.folder.path.name: job for job in jobs.listed(tmp_path)}
    array = found["000"].number.partition("_")[0]
    assert [found[name].number for name in ("000", "001")] == [f"{array}_0", f"{array}_1"]
    assert found["002"].number.isdecimal()
    assert {job.state for job in found.values()} == {"PENDING"}
    launching_trials().stop(handles[1])
    assert has_ended(handles[1])
    # Without accounting, SLURM forgets a task that is cancelled before it has begun.
    assert queue.state(f"{array}_0") == "PENDING"
    assert queue.state(f"{array}_1") in ("CANCELLED", "UNKNOWN")
    assert "was PENDING and is cancelled" in jobs.cancelled(found["002"].number)
    control("release", f"{array}_0")
    first = RunFolder(starts[0].run)
    assert "verified in a fresh process" in followed(first)
    assert (first.stage, jobs.of(first).state) == ("verified", "COMPLETED")


STOPS = """#!/bin/sh
echo started >> "$3/starts"
[ "$(wc -l < "$3/starts")" -gt 1 ] || exit "$(cat "$3/code")"
"""


def array_of(codes: list[int], tmp_path: Path) -> list[RunFolder]:
    """Runs in one array that only end, the first time by these codes."""
    (tmp_path / "python").write_text(STOPS)
    (tmp_path / "python").chmod(0o755)
    launch = LaunchConfig(method="slurm", python=str(tmp_path / "python"))
    folders = [RunFolder(tmp_path / f"{number}") for number, _ in enumerate(codes)]
    for folder, code in zip(folders, codes, strict=True):
        folder.path.mkdir()
        folder.write_text("code", str(code))
        folder.write_text(queue.SCRIPT, sbatch.script(launch, "task", folder.path, []))
    arrays.submit([Prepared(folder, launch) for folder in folders], "mine", tmp_path / "array.sh", Request())
    return folders


def test_a_task_that_is_asked_to_stop_is_queued_again_alone(slurm, tmp_path):
    folders = array_of([0, 3, 75], tmp_path)
    whole, fails, again = (jobs.of(folder).number for folder in folders)
    waited(folders[2], lambda: queue.states([whole, fails, again]) == {whole: "COMPLETED", fails: "FAILED",
                                                                      again: "PENDING"})  # fmt: skip
    assert queue.code(fails) == 3
    assert queue.state(again.partition("_")[0]) == "PENDING"
    start_again(folders[2])
    waited(folders[2], lambda: queue.state(again) == "COMPLETED")
    assert [len((folder / "starts").read_text().split()) for folder in folders] == [1, 1, 2]


def test_an_array_is_cancelled_by_its_number(slurm, tmp_path):
    control("update", f"NodeName={','.join(NODES)}", "State=DRAIN", "Reason=test")
    try:
        folders = array_of([0, 0], tmp_path)
        number = jobs.of(folders[0]).number.partition("_")[0]
        assert "is cancelled" in jobs.cancelled(number)
        assert {jobs.of(folder).state for folder in folders} == {"CANCELLED"}
    finally:
        control("update", f"NodeName={','.join(NODES)}", "State=RESUME")


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
