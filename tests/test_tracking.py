"""Trackers write into the folder of the run, and reach for no network."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import classify, finetune, worked

WORK = "import sys, tiny_runs; tiny_runs.worked(sys.argv[2:], sys.argv[1])"
TRACKERS = {
    "tensorboard": "tensorboard/**/events.out.*",
    "trackio": "trackio/*.db",
    "wandb": "wandb/offline-run-*/*.wandb",
}
QUICK = ("trainer.max_steps=2", "trainer.logging_steps=1", "trainer.save_strategy='no'", "evaluation.baseline=false")


@pytest.fixture
def proxy():
    """Stands between a process and the network; nobody should knock."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_writes_into_the_folder_of_the_run_and_stays_offline(tracker, proxy, tmp_path):
    pytest.importorskip(tracker)
    url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    home = {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parent)}
    through = {name: url for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "TRACKIO"))}
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-c", WORK, str(tmp_path / "runs"), *classify(*QUICK, f"tracking={tracker}")]
    training = subprocess.run(
        command, env={**settings, **home, **through}, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert training.returncode == 0, training.stderr

    (run,) = (tmp_path / "runs").glob("*/*")
    assert list(run.glob(TRACKERS[tracker])), sorted(str(file.relative_to(run)) for file in run.rglob("*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "runs"]
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "loss" in entry] == [1, 2]
    with pytest.raises(BlockingIOError):
        proxy.accept()


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_missing_tracker_ends_with_the_line_that_installs_it(tracker, monkeypatch, capsys):
    look = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == tracker else look(name, *a))
    assert finetune("plan", *classify(f"tracking={tracker}")) == 3
    error = capsys.readouterr().err
    assert f"{tracker} is not installed" in error
    assert 'pip install "finetune-recipes[track]"' in error


def test_each_run_of_a_process_has_a_folder_of_its_own(tmp_path):
    for name in ("first", "second"):
        run = worked(classify(*QUICK, "tracking=tensorboard"), tmp_path / name)
        assert list(run.path.glob(TRACKERS["tensorboard"]))
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
