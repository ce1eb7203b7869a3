"""What ruins a model while its loss looks like any other's is caught in its step."""

import json
import logging
import math
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from cells import KILLED, all_finite
from crash import Poison, once, outcome, trained
from torch.amp import GradScaler

from finetune.config.parallel import ParallelConfig
from finetune.errors import MachineError, UserError
from finetune.plan.run_folder import RunFolder
from finetune.training import guards, trials
from finetune.training.watched import Watched

FULL = KILLED["full"]


@pytest.mark.parametrize("kind", Poison.KINDS)
def test_a_number_that_is_none_stops_the_run_in_its_step(kind, tmp_path):
    folder = tmp_path / "run"
    end = once(partial(trained, FULL, folder, [Poison(6, kind)]), folder)
    assert end.code == 2
    assert "at step 6" in end.output
    assert all_finite(folder)
    assert not (folder / "model").exists()
    assert "at step 6" in RunFolder(folder).read("status.json")["failed"]


def test_a_step_that_is_left_out_moves_nothing_and_is_said(tmp_path):
    folder = tmp_path / "run"
    end = once(partial(trained, [*FULL, "guards.non_finite=skip"], folder, [Poison(6, "gradient")]), folder)
    assert end.code == 0
    assert "step 6 is left out: grad_norm is nan" in end.output
    assert all_finite(folder)
    assert all(math.isfinite(value) for entry in outcome(folder)["metrics"] for value in entry.values())


def test_going_back_leaves_out_the_steps_since_the_last_checkpoint(tmp_path):
    folder = tmp_path / "run"
    # The fault is of the step, so it would come again if the step were taken again.
    end = once(partial(trained, [*FULL, "guards.non_finite=rollback"], folder, [Poison(7, "gradient")]), folder)
    assert "going back to step 6, and leaving out the steps up to 7" in end.output
    assert json.loads((folder / "skipped.json").read_text())[0]["steps"] == [7]
    assert "step 7 is left out" not in end.output
    assert end.code == 0
    assert outcome(folder)["state"]["global_step"] == 12


def test_a_step_that_is_left_out_moves_nothing_under_a_loss_scaler():
    """Its gradients may be finite, and then the scaler takes the step."""
    model = torch.nn.Linear(2, 1)
    before, optimizer, scaler = model.weight.clone(), torch.optim.SGD(model.parameters(), 1.0), GradScaler("cpu")
    scaler.scale(model(torch.ones(1, 2)).sum()).backward()
    scaler.unscale_(optimizer)  # as clipping does before
    arguments = SimpleNamespace(fp16=True, max_grad_norm=1.0)
    Watched.leave_out(SimpleNamespace(args=arguments, model=model, before=torch.ones(1), _tr_loss=torch.zeros(1)))
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight, before)


def trainer_of(model: torch.nn.Module, items: float | None = 1.0) -> SimpleNamespace:
    return SimpleNamespace(model=model, step_items=items, step_loss=1.0, is_left_out=False)


def run_steps(guard: guards.Reached, model: torch.nn.Module, count: int = guards.FIRST_STEPS) -> None:
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for step in range(count):
        optimizer.zero_grad()
        model(torch.ones(1, 4)).sum().backward()
        state = SimpleNamespace(global_step=step, max_steps=count)
        guard.on_pre_optimizer_step(None, state, None, model=model)
        optimizer.step()
        guard.on_optimizer_step(None, state, None, model=model)


class Partly(torch.nn.Module):
    """Of two layers, one takes part."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def test_a_weight_that_no_gradient_reaches_is_named():
    model = Partly()
    with pytest.raises(UserError, match=r"in the first 10 steps no gradient reached unused.bias, unused.weight"):
        run_steps(guards.Reached(trainer_of(model), "stop"), model)
    model.unused.requires_grad_(False)
    run_steps(guards.Reached(trainer_of(model), "stop"), model)


def test_a_step_with_nothing_to_train_on_is_refused():
    model = torch.nn.Linear(4, 2)
    with pytest.raises(UserError, match="step 1 has nothing to train on"):
        run_steps(guards.Reached(trainer_of(model, 0.0), "stop"), model)


def test_weights_too_coarse_for_their_steps_are_said(caplog):
    class Coarse(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.full((4,), 100.0, dtype=torch.bfloat16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[0].bfloat16() * self.weight

    with caplog.at_level(logging.WARNING):
        run_steps(guards.Reached(trainer_of(Coarse()), "stop"), Coarse())
    assert "100 % of the trained weights that had a gradient did not move" in caplog.text


def spikes(action: str, losses: list[float]) -> guards.Spikes:
    trainer = SimpleNamespace(step_loss=0.0, is_left_out=False, settle=lambda: None)
    guard = guards.Spikes(trainer, action)
    for step, loss in enumerate(losses):
        trainer.step_loss = loss
        guard.on_pre_optimizer_step(None, SimpleNamespace(global_step=step), None)
    return guard


USUAL = [2 + 0.1 * math.sin(step) for step in range(40)]


def test_a_loss_far_above_its_recent_values_is_said_or_acted_on(caplog):
    with caplog.at_level(logging.WARNING):
        spikes("warn", [*USUAL, 2.2, 9.0])
    assert caplog.text.count("the loss is") == 1
    assert "the loss is 9 at step 42" in caplog.text
    with pytest.raises(UserError, match="at step 41"):
        spikes("stop", [*USUAL, 9.0])
    with pytest.raises(guards.RollBack):
        spikes("rollback", [*USUAL, 9.0])


def test_a_spike_that_is_left_out_is_not_met_again():
    trainer = SimpleNamespace(step_loss=9.0, is_left_out=True)
    guard = guards.Spikes(trainer, "rollback")
    guard.recent = list(USUAL)
    guard.on_pre_optimizer_step(None, SimpleNamespace(global_step=40), None)
    assert guard.recent == USUAL


def test_the_window_of_losses_goes_with_the_checkpoint():
    guard = spikes("warn", USUAL)
    assert guard.state()["attributes"]["recent"] == USUAL
    assert spikes("stop", [9.0, 1.0, 5.0]).recent == [9.0, 1.0, 5.0]


def test_weights_that_are_no_numbers_are_never_kept():
    model = torch.nn.Linear(2, 2)
    guards.check_finite(model)
    model.weight.data[0, 0] = float("inf")
    with pytest.raises(UserError, match="first weight"):
        guards.check_finite(model)


class OfTwo:
    """Rows, as a loader takes them."""

    def __len__(self):
        return 2

    def __getitems__(self, indices):
        return [[[1.0], [5.0, 7.0, 9.0]][at] for at in indices]


def test_a_model_class_that_ignores_the_items_of_a_step_is_refused():
    trainer = SimpleNamespace(
        model_accepts_loss_kwargs=True, compute_loss_func=None, train_dataset=OfTwo(),
        model=torch.nn.Linear(1, 1), args=SimpleNamespace(device="cpu"), data_collator=lambda rows: {"rows": rows},
        _prepare_inputs=lambda batch: batch, _get_num_items_in_batch=lambda *_: 4,
        compute_loss_context_manager=lambda: torch.no_grad(),
    )  # fmt: skip

    def total(model, batch, num_items_in_batch):
        return sum(map(sum, batch["rows"])) / num_items_in_batch

    def mean(model, batch, num_items_in_batch):
        values = [value for row in batch["rows"] for value in row]
        return sum(values) / len(values)

    trainer.compute_loss = total
    trials.cut_batch(trainer)
    trainer.compute_loss = mean
    with pytest.raises(UserError, match="does not divide its loss by the items"):
        trials.cut_batch(trainer)


def test_a_batch_is_cut_after_what_is_drawn_for_it():
    whole, *parts = trials._whole_and_cut(lambda rows: {"labels": torch.rand(len(rows), 3)}, [1, 2])
    assert torch.equal(torch.cat([part["labels"] for part in parts]), whole["labels"])


def test_packed_rows_that_are_one_line_are_collated_apart():
    _, *parts = trials._whole_and_cut(lambda rows: {"input_ids": torch.tensor([rows]), "longest": 3}, [1, 2])
    assert [part["input_ids"].tolist() for part in parts] == [[[1]], [[2]]]


def test_what_is_tried_first_is_said_and_changes_nothing(tmp_path):
    plain, tried = tmp_path / "plain", tmp_path / "tried"
    first = ("checkpoint.rehearse=true", "guards.longest_first=true")
    recipe = [*KILLED["chat"], "global_batch_size=8"]
    assert once(partial(trained, recipe, plain), plain).code == 0
    end = once(partial(trained, [*recipe, *first], tried), tried)
    assert "a checkpoint was written and read back" in end.output
    assert outcome(plain) == outcome(tried)


def test_a_disk_without_room_for_a_checkpoint_is_said_before_it_is_written(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
    folder = tmp_path / "run"
    end = once(partial(trained, [*FULL, "plan.waive=[disk]"], folder), folder)
    assert end.code == 3
    assert "could not be written" in end.output
    assert "0.0 MB are free. checkpoint-2 is intact" in end.output


@pytest.mark.parametrize(
    ("method", "count", "wraps", "said"),
    [
        ("none", 1, lambda model: model, None),
        ("none", 1, torch.nn.DataParallel, "held as parallel=dp would, and the plan is for none"),
        ("none", 2, lambda model: model, "held as parallel=none would, and the plan is for ddp"),
        ("fsdp2", 2, lambda model: model, "held as parallel=none would, and the plan is for fsdp2"),
    ],
)
def test_another_wrapping_than_the_planned_one_is_refused(method, count, wraps, said):
    trainer = SimpleNamespace(
        args=SimpleNamespace(world_size=count), model_wrapped=wraps(torch.nn.Linear(2, 2)), is_deepspeed_enabled=False
    )
    config = SimpleNamespace(parallel=ParallelConfig(method=method))
    plan = SimpleNamespace(config=config, batches=SimpleNamespace(ranks=count))
    refused = pytest.raises(MachineError, match=said) if said else nullcontext()
    with refused:
        trials.check_as_planned(trainer, plan)
