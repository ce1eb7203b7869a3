"""Two processes over gloo: they agree on the step they stop at, and none outlives the other for long."""

import json
import os
import signal
import time
from pathlib import Path

import cells
import pytest
import tiny_runs
from cells import DROPOUT, TWO
from crash import (
    SMALL,
    Fail,
    Kill,
    both_ended,
    differences,
    ended,
    once,
    outcome,
    output,
    planned_for_ranks,
    started_ranks,
    trained,
)  # fmt: skip

from finetune.artifacts.save import load, load_tokenizer
from finetune.plan import frozen
from finetune.plan.run_folder import RunFolder
from finetune.training import answering, checkpoint, peers, ranks
from finetune.training.peers import Peers

SHORT = [*TWO[:-1], "trainer.max_steps=9"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def straight(place) -> dict:
    return cells.straight_two(place, SHORT)


def test_what_ranks_score_together_is_what_one_scores_alone_to_the_last_digit(straight, place):
    run = RunFolder(place / "straight-two")
    assert straight["scores"] == run.read("probe.json")["scores"]


def test_what_ranks_answer_together_is_what_one_answers_alone(tmp_path):
    asked = ("evaluation.generation.rows=12", "evaluation.generation.max_new_tokens=4", "trainer.max_steps=2",
             "trainer.save_steps=2")  # fmt: skip
    folder = planned_for_ranks(tiny_runs.chat(*SMALL, *asked), tmp_path / "run")
    assert [end.code for end in both_ended(started_ranks(folder), folder)] == [0, 0]
    given = [json.loads(line)["given"] for line in (folder / "answers.jsonl").read_text().splitlines()]
    plan = frozen.read(folder)
    model, words = load(plan, folder.model), load_tokenizer(plan, folder.model)
    alone = answering.of(plan, words)(model, answering.questions_of(folder))
    assert given == [answer["given"] for answer in alone]
    assert len(given) == folder.read("evaluation.json")["answered"] == 12


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("pieces", [0, 1, 5, 6])
def test_work_is_spread_evenly_and_comes_back_in_order(count, pieces, monkeypatch):
    """Each rank in turn: first for what it does, then with what all have done."""
    monkeypatch.setattr(ranks, "world_size", lambda: count)
    done: dict[int, list[int]] = {}

    for rank in range(count):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(ranks, "gather", lambda own, rank=rank: done.update({rank: own}) or [own] * count)
        ranks.spread(range(pieces), lambda piece: piece * 10)
    monkeypatch.setattr(ranks, "gather", lambda _: [done[rank] for rank in range(count)])
    assert ranks.spread(range(pieces), lambda piece: piece * 10) == [piece * 10 for piece in range(pieces)]
    assert {len(own) for own in done.values()} == {-(-pieces // count)}


@pytest.mark.parametrize("signals", [{1: [Kill(5, signal.SIGTERM)]}, {0: [Kill(5, 10)], 1: [Kill(7, 10)]}])
def test_a_signal_to_any_rank_stops_all_at_one_step_and_the_run_goes_on_to_the_bit(signals, straight, tmp_path):
    folder = planned_for_ranks(SHORT, tmp_path / "run")
    assert [end.code for end in both_ended(started_ranks(folder, signals), folder)] == [75, 75]
    (newest, *_) = checkpoint.found(folder / "checkpoints")
    assert checkpoint.step_of(newest) in (5, 6)
    assert {path.name for path in newest.glob("rank-*")} == {"rank-0", "rank-1"}
    folder = planned_for_ranks(SHORT, folder.path)
    assert [end.code for end in both_ended(started_ranks(folder), folder)] == [0, 0]
    assert not differences(straight, outcome(folder.path))


def test_three_ranks_go_on_to_the_bit_though_ddp_adds_up_its_first_batch_in_another_order(tmp_path):
    """Which it does where it does not look for weights without a gradient, such as with activation checkpointing."""
    several = ("global_batch_size=6", "trainer.ddp_find_unused_parameters=false", "trainer.ddp_bucket_cap_mb=1")
    recipe = [*tiny_runs.classify(*SMALL, DROPOUT, *several), "trainer.per_device_train_batch_size=2"]
    whole, parts = (planned_for_ranks(recipe, tmp_path / name, 3) for name in ("whole", "parts"))
    assert {end.code for end in both_ended(started_ranks(whole, count=3), whole)} == {0}
    killed = started_ranks(parts, {1: [Kill(7, signal.SIGTERM)]}, 3)
    assert {end.code for end in both_ended(killed, parts)} == {75}
    assert {end.code for end in both_ended(started_ranks(parts, count=3), parts)} == {0}
    assert not differences(outcome(whole.path), outcome(parts.path))


def test_another_number_of_ranks_goes_on_with_the_same_steps_and_says_what_is_not_exact(tmp_path):
    folder = planned_for_ranks(SHORT, tmp_path / "run")
    assert {end.code for end in both_ended(started_ranks(folder, {0: [Kill(4, signal.SIGTERM)]}), folder)} == {75}
    end = once(lambda: trained(SHORT, folder.path), folder.path)
    assert end.code == 0
    assert "machine.ranks: 2 → 1. Steps see the same rows; sums are rounded in another order" in end.output
    assert "trainer.gradient_accumulation_steps: 2 → 4" in end.output
    assert outcome(folder.path)["state"]["global_step"] == 9


def test_the_rank_that_is_left_says_which_one_is_gone(tmp_path):
    folder = planned_for_ranks(SHORT, tmp_path / "run")
    pids = started_ranks(folder, {1: [Kill(4)]})
    assert ended(pids[1], output(folder, 1)).code == -9
    started = time.monotonic()
    end = ended(pids[0], output(folder, 0))
    assert end.code == 3
    assert time.monotonic() - started < 10
    assert f"rank 1 (process {pids[1]} on" in end.output
    assert "is gone without a word" in end.output


@pytest.mark.parametrize("rank", [0, 1])
def test_a_fault_of_any_rank_leaves_its_traceback_in_one_place(rank, tmp_path):
    folder = planned_for_ranks(TWO, tmp_path / "run")
    pids = started_ranks(folder, {rank: [Fail(4)]})
    codes = [end.code for end in both_ended(pids, folder)]
    assert codes[rank] == 1
    assert codes[1 - rank] == 3
    assert "ValueError: a fault of the test" in (folder / "traceback.txt").read_text()
    assert peers.first_failure(folder / "ranks") == (rank, "a fault of the test", 1)


def test_a_request_by_file_reaches_a_rank_as_a_signal(tmp_path):
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        with peers.watched(tmp_path / "ranks", 0, 2):
            peers.ask(tmp_path / "ranks", "SIGUSR1")
            for _ in range(40):
                if heard:
                    break
                time.sleep(0.1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [1]


def test_one_rank_writes_what_is_written_once_also_before_the_ranks_have_met(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not ranks.is_first()
    monkeypatch.setenv("RANK", "0")
    assert ranks.is_first()


def beat_of(folder, rank: int, **changed: object) -> None:
    Peers(folder, rank, 2).tell("running")
    if changed:
        import json

        file = folder / f"{rank}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def test_a_rank_that_stands_still_is_missed_after_a_while(tmp_path, monkeypatch):
    watching = Peers(tmp_path, 0, 2, patience=30)
    assert watching.missing() is None
    beat_of(tmp_path, 1, host="elsewhere")
    assert watching.missing() is None
    now = time.monotonic()
    monkeypatch.setattr(peers.time, "monotonic", lambda: now + 31)
    assert "rank 1" in watching.missing()
    assert "has stood still for 31 s" in watching.missing()
    beat_of(tmp_path, 1, host="elsewhere", time=1)
    assert watching.missing() is None


def test_a_failure_is_told_to_the_others_by_its_first_line(tmp_path):
    watching = Peers(tmp_path, 0, 2)
    with pytest.raises(ValueError, match="broken"), peers.watched(tmp_path, 1, 2):
        raise ValueError("broken\nby something")
    assert watching.missing().endswith(f"(process {os.getpid()} on {os.uname().nodename}) failed: broken")


def test_a_rank_that_is_done_is_not_missed(tmp_path):
    watching = Peers(tmp_path, 0, 2)
    with peers.watched(tmp_path, 1, 2):
        pass
    assert watching.missing() is None


@pytest.mark.parametrize("changed", [{"state": "failed", "why": "stopped"}, {"pid": 2**22 + 1}])
def test_how_the_processes_before_ended_is_not_taken_for_now(changed, tmp_path):
    beat_of(tmp_path, 1, **changed)
    watching = Peers(tmp_path, 0, 2)
    assert watching.missing() is None
    beat_of(tmp_path, 1, **changed, time=1)
    assert "rank 1" in watching.missing()
