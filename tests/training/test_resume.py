"""Stopped anywhere and resumed is never stopped: the same weights, optimizer, numbers and order, bit for bit."""

import contextlib
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import damage
import pytest
import tiny_runs
from cells import KILLED, MATRIX, REFUSED
from crash import SMALL, Kill, differences, ended, forked, once, outcome, trained
from transformers import TrainerCallback

from finetune import run
from finetune.plan.run_folder import RunFolder
from finetune.training import checkpoint, signals

LORA = KILLED["lora"]


@pytest.fixture(scope="session")
def straight(tmp_path_factory) -> Path:
    """A run that was left alone."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert once(partial(trained, LORA, folder), folder).code == 0
    return folder


@pytest.fixture(scope="session")
def killed_once(tmp_path_factory) -> Path:
    """A run that was killed after step 7; for copying."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    assert once(partial(trained, LORA, folder, [Kill(7)]), folder).code == -9
    return folder


@pytest.fixture
def killed(killed_once, tmp_path) -> Path:
    return Path(tiny_runs.copy_of(RunFolder(killed_once), tmp_path).path)


def again(folder: Path, *more: str, callbacks=()):
    return once(partial(trained, [*LORA, *more], folder, callbacks), folder)


@pytest.mark.parametrize(
    "cell",
    [
        "classify accumulated",
        "packed lora mid-epoch",
        "chat best model",
        "preference best model",
        "preference lora accumulated",
        "kto mid-epoch",
        "reward epochs",
    ],
)
def test_killed_and_resumed_is_never_killed(cell, tmp_path):
    recipe, step = MATRIX[cell]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert once(partial(trained, recipe, whole), whole).code == 0
    assert once(partial(trained, recipe, parts, [Kill(step)]), parts).code == -9
    assert once(partial(trained, recipe, parts), parts).code == 0
    assert not differences(outcome(whole), outcome(parts))


def test_a_run_that_is_resumed_stops_as_early_as_it_would_have(tmp_path):
    recipe, _ = MATRIX["classify best model"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    # Nothing is ever that much better: the first of the evaluations at every second step stays the best.
    stopped = [*recipe, "evaluation.early_stopping_patience=3", "evaluation.early_stopping_threshold=100"]
    assert once(partial(trained, stopped, whole), whole).code == 0
    assert once(partial(trained, stopped, parts, [Kill(5)]), parts).code == -9
    assert once(partial(trained, stopped, parts), parts).code == 0
    assert outcome(whole)["state"]["global_step"] == 8
    assert not differences(outcome(whole), outcome(parts))


@pytest.mark.parametrize(
    ("number", "moment"), [(15, "on_step_begin"), (10, "on_step_end"), (2, "on_pre_optimizer_step")]
)
def test_a_signal_saves_the_running_step_and_the_same_command_goes_on(number, moment, straight, tmp_path):
    folder = tmp_path / "run"
    end = again(folder, callbacks=[Kill(4, number, moment)])
    assert end.code == 75
    assert f"Go on with: finetune resume {folder}" in end.output
    (newest, *_) = checkpoint.found(folder / "checkpoints")
    assert checkpoint.step_of(newest) in (5, 6)
    assert "after step" in RunFolder(folder).read("status.json")["stopped"]
    assert again(folder).code == 0
    assert not differences(outcome(straight), outcome(folder))


def test_a_signal_while_the_run_is_planned_ends_it_at_once_and_the_same_command_goes_on(killed, monkeypatch):
    def planned(*_: object) -> None:
        # Libraries catch exceptions and go on without what failed.
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGUSR1)
        raise AssertionError("not reached")

    monkeypatch.setattr(run, "planned", planned)
    end = again(killed)
    assert end.code == 75
    assert end.output.endswith("stopped by SIGUSR1. Go on with the same command\n")


@pytest.mark.parametrize(("in_steps", "code"), [(True, 0), (False, 128 + 15)])
def test_processes_that_prepare_rows_end_when_told_and_those_that_load_them_stay(in_steps, code, tmp_path):
    with signals.heard() as request:
        request.in_steps = in_steps
        # What a terminal sends to every process, and what a pool is ended by.
        end = once(lambda: [os.kill(os.getpid(), number) for number in (2, 10, 15)], tmp_path)
    assert (end.code, request.by) == (code, None)


def test_a_scheduler_that_asks_again_and_again_does_not_change_the_exit_code(tmp_path):
    def asked() -> None:
        try:
            with signals.heard():
                try:
                    os.kill(os.getpid(), signal.SIGTERM)
                finally:
                    os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    end = once(asked, tmp_path)
    assert (end.code, end.output) == (75, "stopped by SIGTERM\n")


def test_a_signal_during_the_last_save_is_followed_before_anything_else(straight, tmp_path):
    folder = tmp_path / "run"
    end = again(folder, callbacks=[Kill(12, signal.SIGTERM, "on_save")])
    assert end.code == 75
    assert "stopped by SIGTERM after step 12, which is saved" in end.output
    assert not (folder / "model").exists()
    assert again(folder).code == 0
    assert not differences(outcome(straight), outcome(folder))


def test_a_chain_of_stops_leaves_no_trace(straight, tmp_path):
    folder = tmp_path / "run"
    for step in (1, 4, 6, 9, 11):
        again(folder, callbacks=[Kill(step, 15 if step % 2 else 9)])
    assert again(folder).code == 0
    assert not differences(outcome(straight), outcome(folder))


def test_a_kill_and_a_power_cut_at_every_file_operation_of_a_save_lose_nothing(tmp_path):
    end = once(partial(trained, KILLED["full"], tmp_path / "run", [damage.EveryOperation(5, tmp_path / "found")]),
               tmp_path / "run")  # fmt: skip
    cases, passed, detail = damage.read(tmp_path / "found", end)
    assert cases > 80
    assert passed == cases, detail


class Held(TrainerCallback):
    """The flush of the first checkpoint, at step 2, ends when the step after it has begun, or has failed."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.may_end, self.flushed = fails, threading.Event(), checkpoint.flushed
        checkpoint.flushed = self.wait

    def wait(self, *given):
        assert self.may_end.wait(60)
        return self.flushed(*given)

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 3:
            assert not (Path(args.output_dir) / "checkpoint-2").exists()
            self.may_end.set()
            if self.fails:
                raise ValueError("a fault of the test")


def test_steps_are_taken_while_a_checkpoint_is_flushed_and_it_has_its_name_afterwards(straight, tmp_path):
    folder = tmp_path / "run"
    end = once(lambda: trained(LORA, folder, [Held()]), folder)
    assert end.code == 0, end.output
    assert "checkpoint-2 saved; steps waited" in end.output
    assert not differences(outcome(straight), outcome(folder))


def test_a_process_that_fails_alone_keeps_what_it_had_saved_before(tmp_path):
    folder = tmp_path / "run"
    assert once(lambda: trained(LORA, folder, [Held(fails=True)]), folder).code == 1
    assert [path.name for path in checkpoint.found(folder / "checkpoints")] == ["checkpoint-2"]


def test_a_damaged_checkpoint_is_passed_by_and_the_run_still_exact(straight, killed):
    (newest, *_) = checkpoint.found(killed / "checkpoints")
    damage.DAMAGES["one bit"](newest / "optimizer.safetensors", newest)
    end = again(killed)
    assert end.code == 0
    assert "checkpoint-6 cannot be used: optimizer.safetensors is not what was written" in end.output
    assert not differences(outcome(straight), outcome(killed))


def test_a_run_without_a_whole_checkpoint_begins_again(straight, killed):
    for each in checkpoint.found(killed / "checkpoints"):
        (each / "trainer_state.json").unlink()
    assert again(killed).code == 0
    assert not differences(outcome(straight), outcome(killed))


@pytest.mark.parametrize("field", ["trainer.learning_rate", "seeds.data", "adapter.r", "data.rows.train"])
def test_a_changed_run_is_refused_and_the_way_out_is_named(field, killed):
    end = again(killed, REFUSED[field])
    assert end.code == 2
    assert f"  {field}: " in end.output
    assert "→" in end.output
    assert f"checkpoint.accept=[{field}" in end.output


def test_other_weights_of_the_same_shape_are_refused(killed, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    base = Path(shutil.copytree(tiny_runs.bert(), tmp_path / "other"))
    tensors = load_file(base / "model.safetensors")
    save_file({name: value + 0.01 for name, value in tensors.items()}, base / "model.safetensors", {"format": "pt"})
    end = again(killed, f"model.path={base}")
    assert end.code == 2
    assert "  model.weights: " in end.output


def test_the_same_weights_elsewhere_are_the_same(straight, killed, tmp_path):
    import shutil

    base = Path(shutil.copytree(tiny_runs.bert(), tmp_path / "moved"))
    assert again(killed, f"model.path={base}").code == 0
    assert not differences(outcome(straight), outcome(killed))


def test_an_accepted_learning_rate_is_the_one_that_is_used(killed):
    end = again(killed, "trainer.learning_rate=0.5", "checkpoint.accept=[trainer.learning_rate]")
    assert end.code == 0
    assert "changed since the run began: trainer.learning_rate: 0.01 → 0.5" in end.output
    rates = [entry["learning_rate"] for entry in outcome(killed)["metrics"] if "learning_rate" in entry]
    assert max(rates[3:]) > 0.1 > max(rates[:3])


def test_a_finished_run_is_done_and_extended_only_where_that_is_said(straight, tmp_path):
    folder = Path(tiny_runs.copy_of(RunFolder(straight), tmp_path).path)
    before = outcome(folder)
    assert again(folder).code == 0
    assert not differences(before, outcome(folder))
    longer = ("trainer.max_steps=16",)
    assert again(folder, *longer).code == 2
    assert again(folder, *longer, "checkpoint.accept=[total_steps]").code == 0
    assert outcome(folder)["state"]["global_step"] == 16


def test_going_back_leaves_the_other_way_for_good(killed):
    (_newest, oldest) = checkpoint.found(killed / "checkpoints")
    step = checkpoint.step_of(oldest)
    run.resuming.go_back(RunFolder(killed), step)
    assert [path.name for path in checkpoint.found(killed / "checkpoints")] == [oldest.name]
    end = again(killed, callbacks=[Kill(5)])
    assert f"going on from {oldest}" in end.output
    with pytest.raises(run.resuming.UserError, match="there is no such checkpoint"):
        run.resuming.go_back(RunFolder(killed), 77)


def test_a_folder_that_is_in_use_is_refused_and_free_when_its_process_is_gone(killed, tmp_path):
    folder = tmp_path / "held"

    def hold() -> None:
        with RunFolder(folder).locked():
            (tmp_path / "holds").touch()
            time.sleep(60)

    pid = forked(hold, tmp_path / "hold.out")
    while not (tmp_path / "holds").exists():
        time.sleep(0.01)
    with pytest.raises(run_error(), match=f"is in use by process {pid} on"), RunFolder(folder).locked():
        pass
    os.kill(pid, 9)
    ended(pid, tmp_path / "hold.out")
    with RunFolder(folder).locked():
        pass


def run_error() -> type[Exception]:
    from finetune.errors import UserError

    return UserError


def test_how_often_to_save_is_as_configured_now(killed):
    assert again(killed, "trainer.save_steps=5", "trainer.save_total_limit=9").code == 0
    steps = {checkpoint.step_of(path) for path in checkpoint.found(killed / "checkpoints")}
    assert 10 in steps
    assert 8 not in steps


def test_a_checkpoint_holds_no_pickle_and_no_arguments(straight):
    files = [path for path in (straight / "checkpoints").rglob("*") if path.is_file()]
    assert files
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert not [path for path in files if path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04")]


def test_a_checkpoint_of_another_run_can_be_begun_from(straight, tmp_path):
    source = checkpoint.found(straight / "checkpoints")[1]
    end = again(tmp_path / "branch", f"trainer.resume_from_checkpoint={source}")
    assert end.code == 0
    assert f"going on from {source}" in end.output
    assert outcome(tmp_path / "branch")["checkpoint"] == outcome(straight)["checkpoint"]


def test_small_recipes_are_what_the_tests_mean():
    assert "trainer.max_steps=12" in SMALL
