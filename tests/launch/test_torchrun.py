"""Several processes that we start, or that the user does: one plan, one message, one exit code, and nobody left."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_runs
from safetensors.torch import load_file

SMALL = (
    "evaluation.baseline=false", "trainer.max_steps=6", "trainer.save_strategy=steps", "trainer.save_steps=3",
    "trainer.per_device_train_batch_size=4", "global_batch_size=8", "checkpoint.rehearse=false",
)  # fmt: skip
TWO = ("launch=torchrun", "launch.nproc_per_node=2")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "finetune")
ACCELERATE = (
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no",
    "--dynamo_backend=no", "-m", "finetune",
)  # fmt: skip
LONG = ("trainer.max_steps=2000", "trainer.save_steps=1000")


def started(*words: str, program: tuple[str, ...] = ("-m", "finetune")) -> subprocess.Popen:
    """The command line in a session of its own."""
    variables = os.environ | {"XDG_CACHE_HOME": str(tiny_runs.root() / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *program, *words], env=variables, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def train(folder: Path, *more: str, program: tuple[str, ...] = ("-m", "finetune")) -> subprocess.Popen:
    return started("train", *tiny_runs.classify(*SMALL, *more), f"run_folder={folder}", program=program)


def weights(folder: Path) -> dict:
    return load_file(folder / "model" / "model.safetensors")


def beats(folder: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted((folder / "ranks").glob("*.json"))]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_steps(folder: Path, run: subprocess.Popen) -> None:
    for _ in range(600):
        assert run.poll() is None, run.communicate()
        if (folder / "metrics.jsonl").is_file() and len(beats(folder)) == 2:
            return
        time.sleep(0.1)
    raise AssertionError("no step was taken")


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """What one process makes of the same rows in the same steps."""
    folder = tmp_path_factory.mktemp("one") / "run"
    tiny_runs.worked(tiny_runs.classify(*SMALL, f"run_folder={folder}"), folder.parent)
    return folder


def test_two_ranks_of_ours_train_what_one_process_does(one, tmp_path):
    run = train(tmp_path / "run", *TWO)
    output, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors
    assert "verified in a fresh process" in output
    assert output.count("run folder:") == 1
    alone, together = weights(one), weights(tmp_path / "run")
    assert all((alone[name] - together[name]).abs().max() < 1e-6 for name in alone)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (plan["batches"]["ranks"], plan["batches"]["accumulation"]) == (2, 1)


def test_ranks_started_by_accelerate_are_the_same_run(one, tmp_path):
    run = train(tmp_path / "run", program=ACCELERATE)
    output, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors
    assert output.count("run folder:") == 1
    alone, together = weights(one), weights(tmp_path / "run")
    assert all((alone[name] - together[name]).abs().max() < 1e-6 for name in alone)


def test_ranks_of_two_machines_started_by_torchrun_are_the_same_run(one, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"localhost:{free.getsockname()[1]}"
    meeting = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}")
    program = ("-m", "torch.distributed.run", *meeting, "--rdzv-id=7", "--local-addr=localhost", "-m", "finetune")
    machines = [train(tmp_path / "run", program=program) for _ in range(2)]
    said = [machine.communicate(timeout=300) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert sum(output.count("run folder:") for output, _ in said) == 1
    launch = json.loads((tmp_path / "run" / "plan.json").read_text())["config"]["launch"]
    assert (launch["nodes"], launch["nproc_per_node"]) == (2, 1)
    alone, together = weights(one), weights(tmp_path / "run")
    assert all((alone[name] - together[name]).abs().max() < 1e-6 for name in alone)


@pytest.mark.skipif(not shutil.which("scontrol"), reason="needs SLURM's scontrol, which names the hosts of a step")
def test_tasks_of_a_slurm_step_are_the_same_run(one, tmp_path, monkeypatch):
    """By the variables that srun sets, for a step of two tasks on this host."""
    step = {
        "JOB_ID": os.getpid(),
        "STEP_ID": 0,
        "STEP_NUM_TASKS": 2,
        "STEP_TASKS_PER_NODE": 2,
        "STEP_NODELIST": "localhost",
    }
    conf = "ClusterName=test\nSlurmctldHost=localhost\nNodeName=localhost\nPartitionName=all Nodes=ALL\n"
    (tmp_path / "slurm.conf").write_text(conf)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    runs = []
    for rank in (0, 1):
        for name, value in {**step, "PROCID": rank, "LOCALID": rank}.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        runs.append(train(tmp_path / "run"))
    said = [run.communicate(timeout=240) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    alone, together = weights(one), weights(tmp_path / "run")
    assert all((alone[name] - together[name]).abs().max() < 1e-6 for name in alone)


def test_a_signal_stops_all_at_a_checkpoint_and_no_one_is_left(tmp_path):
    run = train(tmp_path / "run", *TWO, *LONG)
    wait_for_steps(tmp_path / "run", run)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 75, errors
    assert errors.count("finetune resume") == 1
    assert list((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    assert not any(is_alive(beat["pid"]) for beat in beats(tmp_path / "run"))


@pytest.mark.parametrize("killed", ["a rank", "the parent"])
def test_whoever_is_killed_all_end_within_ten_seconds(killed, tmp_path):
    run = train(tmp_path / "run", *TWO, *LONG)
    wait_for_steps(tmp_path / "run", run)
    ranks = [beat["pid"] for beat in beats(tmp_path / "run")]
    begun = time.monotonic()
    os.kill(ranks[1] if killed == "a rank" else run.pid, signal.SIGKILL)
    _, errors = run.communicate(timeout=60)
    while any(map(is_alive, ranks)) and time.monotonic() - begun < 20:
        time.sleep(0.1)
    assert time.monotonic() - begun < 10
    if killed == "a rank":
        assert run.returncode == 3, errors
        assert "is gone without a word" in errors


def test_a_wrong_recipe_is_told_once_by_all_ranks_together(tmp_path):
    run = train(tmp_path / "run", "global_batch_size=7", program=TORCHRUN)
    _, errors = run.communicate(timeout=120)
    assert run.returncode
    assert len(re.findall(r"^finetune: ", errors, re.MULTILINE)) == 1
    assert "not a multiple of 2 devices" in errors


def test_as_many_accelerators_as_there_are_is_none_here(tmp_path, capsys):
    recipe = tiny_runs.classify(*SMALL, "launch=torchrun", f"run_folder={tmp_path / 'run'}")
    assert tiny_runs.finetune("train", *recipe) == 3
    assert "launch.nproc_per_node=2" in capsys.readouterr().err
