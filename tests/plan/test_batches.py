"""The arithmetic of batches: closed, and the one transformers really follows."""

import itertools
import re

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from finetune.errors import UserError
from finetune.plan.batches import Every, Schedule, accumulation, batches

SIZES = list(itertools.product((1, 2, 3, 8, 12, 64, 100), (1, 2, 3, 5, 16), (1, 2, 4, 7)))


@pytest.mark.parametrize(("wanted", "per_device", "ranks"), SIZES)
def test_the_global_batch_is_made_exactly_or_refused_with_sizes_that_work(wanted, per_device, ranks):
    try:
        steps = accumulation(wanted, per_device, ranks, None)
    except UserError as error:
        assert wanted % (per_device * ranks) != 0
        named = re.search(r"global_batch_size=([\d or]+)", str(error).partition("Write")[2]).group(1)
        sizes = [int(size) for size in named.split(" or ")]
        assert sizes == sorted(
            size for size in range(1, 2 * wanted + per_device * ranks) if fits(size, per_device, ranks, wanted)
        )
        for size in sizes:
            assert accumulation(size, per_device, ranks, None) * per_device * ranks == size
        for hint in re.findall(r"per_device_train_batch_size=(\d+)", str(error)):
            assert accumulation(wanted, int(hint), ranks, None) * int(hint) * ranks == wanted
    else:
        assert ranks * per_device * steps == wanted


def fits(size, per_device, ranks, wanted):
    """Whether this is one of the two multiples around what was wanted."""
    micro = per_device * ranks
    return size % micro == 0 and abs(size - wanted) < micro


def test_without_a_global_batch_the_written_accumulation_stands():
    assert accumulation(None, 8, 2, 3) == 3
    assert accumulation(None, 8, 2, None) == 1


def test_an_accumulation_that_contradicts_the_global_batch_is_refused():
    assert accumulation(64, 8, 2, 4) == 4
    with pytest.raises(UserError, match=r"2 devices x 8 rows x gradient_accumulation_steps=3 = 48"):
        accumulation(64, 8, 2, 3)


@pytest.mark.parametrize(("share", "steps"), [(0.0, 0), (0.05, 1), (0.5, 10), (3, 3)])
def test_warm_up_is_a_share_below_one_and_a_count_from_there(share, steps):
    assert batches(20, 1, 1, 1, Schedule(1, -1, share)).warmup_steps == steps


@pytest.mark.parametrize(
    ("every", "times"),
    [(Every(), 0), (Every("no", 5), 0), (Every("epoch"), 4), (Every("steps", 5), 6), (Every("steps", 0.25), 4),
     (Every("steps", 100), 0)],
)  # fmt: skip
def test_evaluations_and_checkpoints_are_counted(every, times):
    found = batches(10, 1, 1, 1, Schedule(1, 32, 0, evaluate=every, save=every))
    assert (found.evaluations, found.checkpoints) == (times, times)


def test_a_warm_up_that_never_ends_is_refused():
    with pytest.raises(UserError, match="500 of 20 steps"):
        batches(20, 1, 1, 1, Schedule(1, -1, 500))


class Rows(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, at):
        return {"x": torch.tensor([float(at)]), "labels": torch.tensor(0.0)}


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x, labels):
        return {"loss": self.line(x).square().mean() * 0 + labels.mean()}


@pytest.mark.parametrize("schedule", [Schedule(1, -1, 0.1), Schedule(2.5, -1, 2), Schedule(1, 7, 0.5)])
@pytest.mark.parametrize(("rows", "per_device", "accumulated"), [(1, 8, 4), (10, 4, 2), (13, 2, 3), (16, 8, 2)])
def test_steps_are_those_the_trainer_runs(rows, per_device, accumulated, schedule, tmp_path):
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulated,
        num_train_epochs=schedule.epochs,
        max_steps=schedule.max_steps,
        warmup_steps=schedule.warmup,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(Line(), arguments, train_dataset=Rows(rows))
    expected = batches(rows, 1, per_device, accumulated, schedule)
    assert trainer.train().global_step == expected.total_steps
    assert arguments.get_warmup_steps(expected.total_steps) == expected.warmup_steps
