"""Sweeps at work: real processes that are killed, stopped, pruned and found again. What they train is pretence."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pretending
import pytest
import yaml

from finetune.errors import Stopped, UserError
from finetune.sweep import beginning, going_on, outcome, sweep
from finetune.sweep.folder import find
from finetune.sweep.study import COMPLETE, FAILED, PRUNED, RUNNING

RECIPE = ["task=sequence_classification", "model.path=nowhere", "dataset.path=nothing", "name=tried"]
RATES = "trainer.learning_rate=tag(log,interval(1e-5,1e-1))"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("finetune.sweep.planning.plan", pretending.planned)
    monkeypatch.setattr(sweep, "POLL", 0.02)


def opened(folder, *words):
    wanted = beginning.asked([*RECIPE, f"run_folder={folder}", *words])
    return going_on.opened(wanted, beginning.place(wanted))


def run(folder, *words):
    return sweep.run(opened(folder, *words), launcher=pretending.Pretending())


def rows(folder):
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def parent(folder):
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, pretending.__file__, str(folder)], env=variables, stderr=subprocess.PIPE)


def of_sweep(folder):
    """The processes of trials that run, and the point each one's command line names."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        found |= {int(entry.name): word for word in words if f"{folder}/points/" in word}
    return found


def test_every_point_is_trained_once_and_the_best_is_a_recipe(tmp_path):
    work = run(tmp_path / "s", "trainer.learning_rate=choice(1e-4,1e-3,1e-2)", "sweep=grid", "sweep.n_jobs=2")
    found = rows(tmp_path / "s")
    assert [float(row["trainer.learning_rate"]) for row in found] == [1e-4, 1e-3, 1e-2]
    assert {row["state"] for row in found} == {"finished"}
    assert work.ledger.study.best()[0].number == 1
    best = yaml.safe_load((tmp_path / "s" / "best.yaml").read_text())
    assert best["trainer"]["learning_rate"] == 1e-3
    assert "sweep" not in best or not best["sweep"]["space"]
    assert "<svg" in (tmp_path / "s" / "sweep.html").read_text()


def test_a_sweep_whose_parent_and_trials_are_killed_ends_with_every_trial_once(tmp_path):
    folder, draw, kills, killed = tmp_path / "s", random.Random(1), Counter(), set()
    opened(folder, RATES, "sweep=random", "sweep.n_trials=16", "sweep.n_jobs=4", "sweep.max_failures=0")
    process = parent(folder)
    while process.poll() is None:
        time.sleep(draw.uniform(0.6, 1.2))
        # Each trial once: one killed three times before its next step, as on a slow machine, has failed.
        running = {pid: point for pid, point in of_sweep(folder).items() if point not in killed}
        if kills.total() == 5 or process.poll() is not None:
            process.wait(300)
        elif kills.total() % 2:
            process.kill()
            process.wait()
            kills["parent"] += 1
            process = parent(folder)
        elif running:
            chosen = draw.choice(list(running))
            os.kill(chosen, signal.SIGKILL)
            killed.add(running[chosen])
            kills["trial"] += 1
    assert process.returncode == 0, process.stderr.read()
    found = rows(folder)
    assert kills["parent"] >= 2
    assert Counter(row["state"] for row in found) == {"finished": 16}
    assert len({row["trainer.learning_rate"] for row in found}) == 16
    assert len(list((folder / "trials").glob("*/evaluation.json"))) == 16
    assert not of_sweep(folder)


def test_a_sweep_that_goes_on_draws_the_points_it_would_have_drawn(tmp_path):
    drawn = []
    for parts in ((5,), (2, 5)):
        folder = tmp_path / str(len(parts))
        for most in parts:
            run(folder, RATES, "sweep.sampler=tpe", f"sweep.n_trials={most}")
        drawn.append([row["trainer.learning_rate"] for row in rows(folder)])
    assert drawn[0] == drawn[1]


def test_a_trial_that_is_too_bad_is_stopped_and_recorded_as_pruned_with_its_step(tmp_path):
    rates = "trainer.learning_rate=choice(1e-3,2e-3,5e-4,8e-4,3e-3,1e-5)"
    work = run(tmp_path / "s", rates, "sweep=grid", "sweep.pruner=median")
    (pruned,) = work.ledger.study.trials(PRUNED)
    assert pruned.params == {"trainer.learning_rate": 1e-5}
    last = rows(tmp_path / "s")[-1]
    assert (last["state"], last["reason"][:10]) == ("pruned", "after step")
    assert int(last["steps"]) < pretending.STEPS
    assert json.loads((tmp_path / "s" / "trials" / "005" / "status.json").read_text())["stopped"]


def test_identical_points_take_the_known_value(tmp_path):
    same = "evaluation.metrics=choice([accuracy],['accuracy'])"
    work = run(tmp_path / "s", same, "trainer.learning_rate=1e-3", "sweep=grid")
    assert [trial.values for trial in work.ledger.study.trials(COMPLETE)] == [[pretending.value_of(1e-3, 40)]] * 2
    assert [row["same as"] for row in rows(tmp_path / "s")] == ["", "0"]
    assert len(list((tmp_path / "s" / "trials").glob("*/starts"))) == 1


def test_a_space_that_is_used_up_ends_the_sweep(tmp_path):
    run(tmp_path / "s", "trainer.learning_rate=choice(1e-4,1e-3,1e-2)", "sweep=random", "sweep.n_trials=20")
    assert sum(not row["same as"] for row in rows(tmp_path / "s")) == 3


def test_failed_trials_are_recorded_with_their_reason_and_put_up_with(tmp_path):
    rates = "trainer.learning_rate=choice(2.0,1e-3,3.0)"
    run(tmp_path / "s", rates, "sweep=grid", "sweep.max_failures=2")
    assert [(row["state"], row["reason"]) for row in rows(tmp_path / "s")] == [
        ("failed", "CUDA out of memory"),
        ("finished", ""),
        ("failed", "CUDA out of memory"),
    ]


def test_one_failure_too_many_ends_the_sweep_which_can_go_on(tmp_path):
    rates = "trainer.learning_rate=choice(2.0,3.0,1e-3)"
    with pytest.raises(UserError, match=r"2 trials failed, and sweep.max_failures=1\n  trial 0: CUDA out of memory"):
        run(tmp_path / "s", rates, "sweep=grid", "sweep.max_failures=1")
    assert not of_sweep(tmp_path / "s")
    run(tmp_path / "s", rates, "sweep=grid", "sweep.max_failures=2")
    assert [row["state"] for row in rows(tmp_path / "s")] == ["failed", "failed", "finished"]


def test_an_objective_that_no_run_scores_is_one_message_and_leaves_nobody(tmp_path):
    with pytest.raises(UserError, match=r"no run scores acuracy\. Did you mean accuracy"):
        run(tmp_path / "s", RATES, "sweep.objectives={acuracy: maximize}")
    assert not of_sweep(tmp_path / "s")


def test_two_objectives_have_a_front(tmp_path):
    both = "sweep.objectives={accuracy: maximize, trainable_parameters: minimize}"
    work = run(tmp_path / "s", "trainer.learning_rate=choice(1e-4,1e-3)", "sweep=grid", both)
    assert [trial.values for trial in work.ledger.study.best()] == [[pretending.value_of(1e-3, 40), 100]]
    assert "Pareto front" in (tmp_path / "s" / "sweep.html").read_text()


def test_the_value_of_several_seeds_is_their_mean(tmp_path):
    run(tmp_path / "s", "trainer.learning_rate=choice(1e-4,1e-3)", "sweep=grid", "sweep.seeds_per_trial=3")
    runs = sorted(path.name for path in (tmp_path / "s" / "trials").iterdir() if path.is_dir())
    assert runs == [f"00{number}-seed{seed}" for number in (0, 1) for seed in (0, 1, 2)]
    assert all(row["accuracy ±"] == "0.0" for row in rows(tmp_path / "s"))


def test_a_sweep_that_is_asked_to_stop_saves_its_trials_and_goes_on(tmp_path, monkeypatch):
    def asked(work):
        if work.running and outcome.step(work.folder(work.running[0])):
            os.kill(os.getpid(), signal.SIGTERM)

    made = opened(tmp_path / "s", "trainer.learning_rate=choice(1e-4,1e-3)", "sweep=grid", "sweep.n_jobs=2")
    with pytest.raises(Stopped, match="finetune sweep resume"):
        sweep.run(made, watch=asked, launcher=pretending.Pretending())
    assert not of_sweep(tmp_path / "s")
    work = sweep.run(going_on.resumed(find(str(tmp_path / "s")), []), launcher=pretending.Pretending())
    assert len(work.ledger.study.trials(COMPLETE)) == 2
    assert not work.ledger.study.trials(RUNNING, FAILED)


def test_a_trial_that_is_gone_at_the_same_step_again_and_again_has_failed(tmp_path, monkeypatch):
    def killed(work):
        for trial in work.running:
            os.kill(trial.handle["pid"], signal.SIGKILL)

    made = opened(tmp_path / "s", "trainer.learning_rate=choice(1e-4,1e-3)", "sweep=grid")
    sweep.run(made, watch=killed, launcher=pretending.Pretending())
    found = {(row["state"], row["reason"]) for row in rows(tmp_path / "s")}
    assert found == {("failed", "gone without a word 3 times after step 0")}


def test_a_second_parent_is_locked_out(tmp_path):
    folder = tmp_path / "s"
    opened(folder, RATES, "sweep=random", "sweep.n_trials=1000")
    first = parent(folder)
    try:
        for _ in range(200):
            if of_sweep(folder):
                break
            time.sleep(0.05)
        second = parent(folder)
        assert b"in use by process" in second.communicate(timeout=60)[1]
        first.terminate()
        first.communicate(timeout=60)
        assert not of_sweep(folder)
    finally:
        first.kill()


def test_another_sweep_in_the_folder_is_refused_with_what_differs(tmp_path):
    opened(tmp_path / "s", RATES, "sweep.n_trials=5")
    with pytest.raises(UserError, match=r"holds another sweep(.|\n)*seed: 42 → 7(.|\n)*sweep.sampler: tpe → random"):
        opened(tmp_path / "s", RATES, "seed=7", "sweep=random")
    with pytest.raises(UserError, match="a sweep goes on as it began"):
        going_on.resumed(find(str(tmp_path / "s")), ["sweep.sampler=random"])
    assert going_on.resumed(find(str(tmp_path / "s")), ["sweep.n_trials=9"]).settings.n_trials == 9
    assert going_on.resumed(find(str(tmp_path / "s")), []).settings.n_trials == 9


def test_a_recipe_that_is_edited_changes_no_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "base.yaml": "dataset: {path: nothing}\ntrainer: {warmup_steps: 3}\n",
        "mine.yaml": "defaults: [./base.yaml, override /task: sequence_classification]\nmodel: {path: nowhere}\n"
        "sweep: {space: {trainer.learning_rate: 'interval(1e-5, 1e-1)', trainer: {weight_decay: [0, 0.1]}}}\n",
    }.items():
        Path(name).write_text(f"# @package _global_\n{text}")
    run_of = ["recipe=mine.yaml", f"run_folder={tmp_path / 's'}", "sweep.n_trials=2"]
    wanted = beginning.asked(run_of)
    sweep.run(going_on.opened(wanted, beginning.place(wanted)), launcher=pretending.Pretending())
    Path("base.yaml").unlink()
    Path("mine.yaml").write_text("nothing: at all\n")
    made = going_on.resumed(find("s"), ["sweep.n_trials=4"])
    sweep.run(made, launcher=pretending.Pretending())
    points = [yaml.safe_load(file.read_text()) for file in (tmp_path / "s" / "points").glob("*.yaml")]
    assert {point["trainer"]["warmup_steps"] for point in points} == {3}
    assert {point["name"] for point in points} == {"mine"}
    assert len(rows(tmp_path / "s")) == 4


def test_a_folder_that_holds_no_sweep_cannot_be_gone_on_with(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a sweep"):
        find(str(tmp_path))
