"""Trials as jobs of Ray: of a real one where it is installed; what needs none is tested anywhere."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_runs
import yaml

from finetune import run
from finetune.config.launch import LaunchConfig
from finetune.errors import MachineError, MissingExtra, UserError
from finetune.sweep import beginning, outcome, points, ray_jobs
from finetune.sweep.processes import Start
from finetune.sweep.ray_jobs import RayJobs

PORT = 8765
WORKS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(4), print("finetune: stopped by SIGTERM"), sys.exit(75)))
print(os.environ["GROUP"], os.getcwd(), flush=True)
time.sleep({seconds})
"""
ONE = {"method": "ray", "nproc_per_node": 1}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A cluster of this machine."""
    pytest.importorskip("ray", reason="needs the extra ray")
    # Names of sockets are short, so its folder is not one of pytest's.
    head = ["ray", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", "--disable-usage-stats",
            "--port=6380", f"--dashboard-port={PORT}", "--object-store-memory=80000000"]  # fmt: skip
    program = [str(Path(sys.executable).parent / head[0]), *head[1:]]
    with (tmp_path_factory.mktemp("ray") / "log").open("w") as log:
        started = subprocess.Popen(program, stdout=log, stderr=log, start_new_session=True)
    try:
        yield _answering(started)
    finally:
        started.terminate()
        started.wait(60)


def _answering(head: subprocess.Popen) -> str:
    where = f"http://127.0.0.1:{PORT}"
    for _ in range(120):
        try:
            RayJobs(LaunchConfig(method="ray", address=where))
            return where
        except MachineError:
            assert head.poll() is None
            time.sleep(0.5)
    raise AssertionError("Ray has not begun")


def submitted(jobs: RayJobs, log: Path, seconds: int):
    """The handle of a job as a study keeps it, and what submits it."""
    command = [sys.executable, "-c", WORKS.format(seconds=seconds)]
    (handle,), gate = jobs.start([Start(command, log, {"GROUP": "mine"}, log)])
    return json.loads(json.dumps(handle)), gate


def waited(is_so) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to that")


def test_a_job_is_known_again_by_another_and_has_its_time_to_stop(address, tmp_path):
    launch = LaunchConfig(method="ray", address=address, cpus_per_node=1)
    log = tmp_path / "a b.log"
    jobs = RayJobs(launch)
    handle, gate = submitted(jobs, log, 60)
    assert not RayJobs(launch).is_running(handle)
    jobs.begin(gate)
    waited(lambda: log.is_file() and log.read_text() == f"mine {Path.cwd()}\n")
    after = RayJobs(launch)
    assert after.is_running(handle)
    after.stop(handle)
    waited(lambda: not after.is_running(handle))
    assert outcome.of(tiny_runs.RunFolder(tmp_path), log, 0).kind == "stopped"
    after.end(handle)


def test_a_job_that_ends_by_itself_has_ended(address, tmp_path):
    jobs = RayJobs(LaunchConfig(method="ray", address=address))
    handle, gate = submitted(jobs, tmp_path / "log", 0)
    jobs.begin(gate)
    waited(lambda: not jobs.is_running(handle))
    assert outcome.of(tiny_runs.RunFolder(tmp_path), tmp_path / "log", 0).kind == "lost"
    with pytest.raises(MachineError, match="Ray refuses the job of a trial"):
        jobs.begin(gate)


def test_a_cluster_that_does_not_answer_is_told():
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.raises(MachineError, match=r"no cluster of Ray answers at http://127\.0\.0\.1:9.*ray start --head"):
        RayJobs(LaunchConfig(method="ray", address="http://127.0.0.1:9"))


def test_without_ray_a_sweep_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.job_submission", None)
    words = ("launch=ray", "launch.nproc_per_node=1", "trainer.learning_rate=choice(1e-3,1e-4)")
    with pytest.raises(MissingExtra, match=r"finetune-recipes\[ray\]"):
        beginning.asked(tiny_runs.classify(*words))


def test_one_run_is_no_job_of_ray():
    with pytest.raises(UserError, match=r"one run\. Write launch\.method=local or launch\.method=torchrun"):
        run.run(tiny_runs.config(tiny_runs.classify("launch=ray", "launch.nproc_per_node=1")))
    with pytest.raises(UserError, match="launch=ray is none"):
        run.script_of(tiny_runs.config(tiny_runs.classify("launch=ray", "launch.nproc_per_node=1")), [])


def asked(monkeypatch, **more) -> dict:
    """What is submitted for a trial."""
    monkeypatch.setattr(ray_jobs, "_client", lambda _: None)
    start = Start(["/here/python", "-m", "x y"], Path("/l"), {}, Path())
    (handle,), (gate,) = RayJobs(LaunchConfig(method="ray", **more)).start([start])
    assert handle["ray"] == gate["submission_id"]
    return gate


def test_a_job_is_given_what_a_node_is_asked_for_and_time_for_a_checkpoint(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HF_HOME", "/shared/hf")
    monkeypatch.setenv("HF_TOKEN", "secret")
    job = asked(
        monkeypatch, gpus_per_node="a100:4", cpus_per_node=16, mem="2G", grace_seconds=30, python="/env/python"
    )
    wanted = {"num_gpus": 4, "num_cpus": 16, "memory": 2**31}
    assert {name: job[f"entrypoint_{name}"] for name in wanted} == wanted
    assert job["runtime_env"]["env_vars"] == {"HF_HOME": "/shared/hf", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    assert "exec /env/python -m 'x y' >> /l 2>&1 < /dev/null" in job["entrypoint"]
    assert "exec /here/python" in asked(monkeypatch)["entrypoint"]


class Answering:
    """A head of Ray that gives one answer."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def get_job_info(self, _):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "is_running"),
    [
        (OSError("connection refused"), True),
        (RuntimeError("Request failed with status code 503: later."), True),
        (RuntimeError("Request failed with status code 404: Job x does not exist."), False),
    ],
)
def test_only_a_job_that_ray_does_not_know_is_gone(monkeypatch, answer, is_running):
    monkeypatch.setattr(ray_jobs, "_client", lambda _: Answering(answer))
    assert RayJobs(LaunchConfig(method="ray")).is_running({"ray": "x", "log": "/l"}) is is_running


def test_why_ray_started_nothing_is_the_reason_of_the_trial(monkeypatch, tmp_path):
    ended = SimpleNamespace(is_terminal=lambda: True)
    answer = SimpleNamespace(error_type="JOB_SUPERVISOR_ACTOR_START_TIMEOUT", message="no GPUs", status=ended)
    monkeypatch.setattr(ray_jobs, "_client", lambda _: Answering(answer))
    jobs = RayJobs(LaunchConfig(method="ray"))
    assert not any(jobs.is_running({"ray": "x", "log": str(tmp_path / "log")}) for _ in range(2))
    found = outcome.of(tiny_runs.RunFolder(tmp_path), tmp_path / "log", 0)
    assert (found.kind, found.reason) == ("failed", "Ray did not start it: no GPUs")


@pytest.mark.parametrize(
    ("launch", "found"),
    [
        ({"method": "slurm", "gpus_per_node": 2}, {}),
        ({"method": "ray", "gpus_per_node": 1}, {"method": "local"}),
        ({"method": "ray", "gpus_per_node": "a100:2"}, {"method": "torchrun", "nproc_per_node": 2}),
        ({"method": "ray", "nproc_per_node": 3}, {"method": "torchrun", "nproc_per_node": 3}),
    ],
)
def test_a_trial_trains_where_ray_has_brought_it_and_so_does_the_best_point(launch, found):
    assert points.brought(LaunchConfig(**launch)) == found
    recipe = points.as_recipe("seed: 1\nlaunch: {method: before}\n", ["said"], found)
    assert yaml.safe_load(recipe) == {"seed": 1, "launch": found or {"method": "before"}}
