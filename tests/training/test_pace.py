"""The next plan of a run knows how fast this machine was: of steps alone, and only where it was this machine."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny_runs

from finetune.estimate import duration
from finetune.plan import frozen
from finetune.plan.planned import planned
from finetune.training import callbacks
from finetune.training.callbacks import Pace

STATE = SimpleNamespace(is_world_process_zero=True)


@pytest.fixture
def plan(tmp_path, monkeypatch):
    found = frozen.read(tiny_runs.trained("classify_full"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return found


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now.seconds)
    return now


def stepped(pace: Pace, clock: SimpleNamespace, count: int, seconds: float) -> None:
    for _ in range(count):
        clock.seconds += seconds
        pace.on_step_end()


def test_a_run_tells_the_next_plan_its_speed():
    recipe, more = tiny_runs.KINDS["classify_full"]
    assert "FLOP" in frozen.read(tiny_runs.trained("classify_full")).costs.duration["source"]
    with tiny_runs.own_caches():
        made, _ = planned(tiny_runs.config(recipe(*more)))
    assert "measured here" in made.costs.duration["source"]


def test_saves_evaluations_and_the_first_steps_are_no_part_of_it(plan, clock):
    pace = Pace(plan)
    stepped(pace, clock, 4, 50.0)
    stepped(pace, clock, 6, 2.0)
    for interruption in (pace.on_save, pace.on_evaluate, pace.on_epoch_begin):
        interruption()
        clock.seconds += 100.0
        stepped(pace, clock, 4, 2.0)
    pace.on_train_end(None, STATE, None)
    tokens = plan.report["train"]["notes"]["tokens"] / plan.batches.rows * plan.batches.global_batch
    assert duration.recall(plan.costs.shape) == pytest.approx(tokens / 2.0)


def test_few_steps_and_a_plan_for_another_device_tell_nothing(plan, clock):
    few = Pace(plan)
    stepped(few, clock, 9, 2.0)
    few.on_train_end(None, STATE, None)
    elsewhere = Pace(replace(plan, config=replace(plan.config, plan=replace(plan.config.plan, device="h100"))))
    stepped(elsewhere, clock, 40, 2.0)
    elsewhere.on_train_end(None, STATE, None)
    assert duration.recall(plan.costs.shape) is None
