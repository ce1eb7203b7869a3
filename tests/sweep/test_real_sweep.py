"""A sweep of real trainings: its trials are what the same recipe makes alone, from rows that are prepared once."""

import csv
import json
import os
import subprocess
import sys
from hashlib import sha256

import tiny_runs

SMALL = ("trainer.max_steps=4", "checkpoint.rehearse=false", "evaluation.baseline=false")


def finetune(*words):
    """The command line in a process of its own: what a trial is, and what it is compared with."""
    variables = os.environ | {"XDG_CACHE_HOME": str(tiny_runs.root() / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "finetune", *words], env=variables, text=True, capture_output=True)


def weights(run):
    return sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def test_a_trial_is_the_same_recipe_run_alone_and_rows_are_prepared_once(tmp_path):
    folder, recipe = tmp_path / "s", tiny_runs.classify(*SMALL, "name=swept")
    swept = finetune(
        "train", "-m", *recipe, "trainer.learning_rate=1e-2,3e-3", f"run_folder={folder}", "sweep.n_jobs=2"
    )
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "planning all 2 points" in swept.stdout
    assert "data prepared once" in swept.stdout
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["finished", "finished"]
    plans = [json.loads((folder / "trials" / name / "plan.json").read_text()) for name in ("000", "001")]
    assert plans[0]["rows"] == plans[1]["rows"]
    best = max(rows, key=lambda row: float(row["accuracy"]))
    alone = tiny_runs.worked([f"recipe={folder / 'best.yaml'}", f"run_folder={tmp_path / 'alone'}"], tmp_path)
    assert weights(alone) == weights(folder / "trials" / f"{int(best['trial']):03d}")
    assert weights(folder / "trials" / "000") != weights(folder / "trials" / "001")
