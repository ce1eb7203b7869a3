"""The parts of a sweep by themselves: devices, processes, what is read of a run, the study."""

import json
import os
import subprocess
import sys
import time

import pytest

from finetune.config.launch import LaunchConfig
from finetune.config.space import Choices, Interval, Space
from finetune.config.sweep import SweepConfig
from finetune.errors import MachineError, UserError
from finetune.plan.run_folder import RunFolder
from finetune.sweep import outcome, page, results, study
from finetune.sweep.devices import Pool, present
from finetune.sweep.processes import Local, Start
from finetune.sweep.study import COMPLETE, RUNNING, Study

SPACE = Space((Interval("rate", "", 1e-5, 1e-1, is_log=True), Choices("r", "", (8, 16))))
SLEEPS = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]


def test_devices_are_lent_to_one_trial_at_a_time_and_come_back():
    pool = Pool.of(["0", "1", "2", "3", "4"], 2, None)
    assert pool.most == 2
    first, second = pool.lend(), pool.lend()
    assert (first, second, pool.has_room) == (["0", "1"], ["2", "3"], False)
    pool.take_back(first)
    assert pool.lend() == ["0", "1"]


def test_what_a_trial_of_a_parent_before_has_is_not_lent_again():
    pool = Pool.of(["GPU-a", "GPU-b"], 1, None)
    pool.lend_again(["GPU-a"])
    assert (pool.lend(), pool.has_room) == (["GPU-b"], False)


def test_more_devices_than_there_are_is_the_machines_error():
    with pytest.raises(MachineError, match="devices_per_trial=3: this machine has 2"):
        Pool.of(["0", "1"], 3, None)
    with pytest.raises(MachineError, match=r"Write sweep\.n_jobs=1"):
        Pool.of(["0", "1"], 2, 2)


def test_trials_that_share_devices_are_as_many_as_is_asked_for():
    assert Pool.of(["0"], 0, 3).most == 3
    assert Pool.of([], 0, None).most == 1


def test_devices_keep_the_names_they_were_given_by():
    assert present(2, {"CUDA_VISIBLE_DEVICES": "GPU-1, GPU-7"}) == ["GPU-1", "GPU-7"]
    assert present(2, {}) == ["0", "1"]


def test_a_trial_with_several_devices_has_a_process_for_each():
    from finetune.sweep.points import processes

    assert processes(LaunchConfig(method="torchrun", nproc_per_node=4)) == 4
    assert processes(LaunchConfig(method="torchrun")) is None
    assert processes(LaunchConfig()) == 1


def test_a_process_does_nothing_before_it_is_told_to_and_nothing_where_nobody_tells_it(tmp_path):
    local, log = Local(), tmp_path / "log"
    (handle,), waiting = local.start([Start(SLEEPS, log, {}, tmp_path)])
    time.sleep(0.3)
    assert (local.is_running(handle), log.read_text()) == (True, "")
    waiting[0].stdin.close()  # as when whoever started it is killed
    _wait(lambda: not local.is_running(handle))
    assert log.read_text() == ""


def test_a_process_is_known_again_by_its_handle_alone(tmp_path):
    (handle,), waiting = Local().start([Start(SLEEPS, tmp_path / "log", {}, tmp_path)])
    Local().begin(waiting)
    known = json.loads(json.dumps(handle))
    _wait(lambda: "here" in (tmp_path / "log").read_text())
    assert Local().is_running(known)
    assert not Local().is_running({**known, "begun": known["begun"] + 1})
    Local().stop(known)
    _wait(lambda: not Local().is_running(known))


def test_a_process_of_another_machine_is_not_taken_for_one_of_this(tmp_path):
    with pytest.raises(MachineError, match="a trial runs on elsewhere"):
        Local().is_running({"pid": os.getpid(), "begun": 1.0, "host": "elsewhere"})


def test_what_a_killed_process_has_left_of_its_group_is_ended(tmp_path):
    child = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    (handle,), waiting = Local().start([Start([sys.executable, "-c", child], tmp_path / "log", {}, tmp_path)])
    Local().begin(waiting)
    _wait(lambda: (tmp_path / "log").read_text())
    os.kill(handle["pid"], 9)
    _wait(lambda: not Local().is_running(handle))
    left = int((tmp_path / "log").read_text())
    Local().end(handle)
    _wait(
        lambda: subprocess.run(["ps", "-o", "stat=", "-p", str(left)], capture_output=True).stdout[:1] in (b"", b"Z")
    )


def _wait(until):
    for _ in range(200):
        if until():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize(
    ("status", "said", "kind", "reason"),
    [
        ({"stage": "verified"}, "", "done", ""),
        ({"stage": "training"}, "step 3/20  loss 1.2\n", "lost", ""),
        (None, "", "lost", ""),
        ({"stage": "training", "failed": "CUDA out of memory"}, "finetune: CUDA out of memory\n", "failed",
         "CUDA out of memory"),
        ({"stage": "training", "stopped": "by SIGTERM"}, "finetune: stopped by SIGTERM after step 3\n", "stopped",
         "stopped by SIGTERM after step 3"),
        (None, "finetune: 1 problem in the config\n  a: b\n", "failed", "1 problem in the config\n  a: b"),
        ({"stage": "training", "failed": "'x'"}, "Traceback\nfinetune: this is a fault of finetune; the lines above\n",
         "failed", "'x'"),
        # Stopped before, and then refused before it had begun again.
        ({"stage": "training", "stopped": "by SIGTERM"}, "finetune: no such file\n", "failed", "no such file"),
    ],
)  # fmt: skip
def test_what_ended_a_run_is_read_from_its_folder(tmp_path, status, said, kind, reason):
    folder, log = RunFolder(tmp_path), tmp_path / "log"
    if status:
        folder.write("status.json", status)
    log.write_text("finetune: of an attempt before\n" + said)
    found = outcome.of(folder, log, len("finetune: of an attempt before\n"))
    assert (found.kind, found.reason) == (kind, reason)


def test_evaluations_are_read_as_far_as_they_are_written(tmp_path):
    lines = [
        {"step": 2, "loss": 1.0},
        {"step": 2, "eval_loss": 0.9, "eval_f1": 0.1},
        {"step": 4, "eval_loss": 0.8, "eval_f1": 0.2},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 6, "eval_l')
    assert outcome.evaluations(RunFolder(tmp_path), "f1") == [(2, 0.1), (4, 0.2)]
    assert outcome.step(RunFolder(tmp_path)) == 4
    with pytest.raises(UserError, match=r"no run scores f2\. Did you mean f1\?"):
        outcome.evaluations(RunFolder(tmp_path), "f2")


def made(folder, **settings):
    config = SweepConfig(**{"sampler": "random", "objectives": {"loss": "minimize"}, **settings})
    return Study(folder / "journal.log", "made", config, SPACE, 0)


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "nsga2", "gp"])
def test_every_sampler_draws_again_what_it_would_have_drawn(tmp_path, sampler):
    drawn = []
    for name, breaks in (("at-once", ()), ("in-parts", (2, 9))):
        (tmp_path / name).mkdir()
        book = made(tmp_path / name, sampler=sampler)
        for at in range(12):
            if at in breaks:
                book = made(tmp_path / name, sampler=sampler)
            number = book.ask()
            point = book.point(number)
            book.tell(number, COMPLETE, [abs(point["rate"] - 1e-3)])
        drawn.append([trial.params for trial in book.trials()])
    assert drawn[0] == drawn[1]


def test_a_trial_of_which_nothing_was_drawn_yet_gets_the_point_it_would_have_had(tmp_path):
    (tmp_path / "whole").mkdir()
    whole, cut = made(tmp_path / "whole"), made(tmp_path)
    expected = whole.point(whole.ask())
    number = cut.ask()  # and the parent is killed
    assert made(tmp_path).point(number) == expected


def test_half_a_line_at_the_end_of_the_journal_and_a_lock_left_behind_are_mended(tmp_path):
    book = made(tmp_path)
    book.tell(book.ask(), COMPLETE, [1.0])
    with (tmp_path / "journal.log").open("a") as journal:
        journal.write('{"op_code":4,"wor')
    (tmp_path / "journal.log.lock").symlink_to(tmp_path / "journal.log")
    again = made(tmp_path)
    again.ask()
    assert [trial.state for trial in again.trials()] == [COMPLETE, RUNNING]


@pytest.mark.parametrize(
    ("settings", "space", "said"),
    [
        ({}, Space(()), "nothing is varied"),
        ({"sampler": "grid"}, SPACE, "a grid takes every point"),
        ({"sampler": "cmaes"}, Space((Choices("a", "", (1, 2)),)), "varies numbers"),
        ({"pruner": "asha", "objectives": {"a": "maximize", "b": "minimize"}}, SPACE, "compares one value"),
        ({"sampler": "cmaes", "objectives": {"a": "maximize", "b": "minimize"}}, SPACE, "takes one objective"),
    ],
)
def test_what_cannot_work_together_is_refused(settings, space, said):
    with pytest.raises(UserError, match=said):
        study.check(SweepConfig(**settings), space)


def test_the_interval_of_a_mean_is_students(tmp_path):
    assert results.interval([1.0, 2.0, 3.0]) == pytest.approx(2.4841, abs=1e-3)  # 4.303 * 1 / sqrt(3)
    assert results.interval([1.0]) is None


def test_the_page_shows_no_script_and_escapes_what_it_shows(tmp_path):
    book = made(tmp_path)
    for value in (1.0, 2.0):
        number = book.ask()
        book.point(number)
        book.note(number, trial={"values": [[value], [value + 1]], "point": str(number), "words": ""})
        book.tell(number, COMPLETE, [value])
    text = page.page("<b>", results.of(book), book)
    assert "<script" not in text
    assert "&lt;b&gt;" in text
    assert "1.5 ±" in text
