"""Models held in shares: FSDP2 of the real trainer in two processes over gloo, saved whole and gone on with anywhere.

accelerate gives FSDP to accelerators alone. Here it is told that a processor is one: what follows is all its own.
"""

import signal
from pathlib import Path
from types import SimpleNamespace

import accelerate.state
import crash
import pytest
import tiny_runs
import torch
from crash import SMALL, Kill, both_ended, once, outcome, planned_for_two, trained, two_ranks
from safetensors.torch import load_file

from finetune.plan import parallel
from finetune.plan.run_folder import RunFolder

HALF = ("trainer.max_steps=9", "global_batch_size=8", "trainer.per_device_train_batch_size=2")
FULL = tiny_runs.chat(*SMALL, *HALF)
LORA = tiny_runs.chat(*SMALL, *HALF, "adapter=lora", "adapter.lora_dropout=0")
SHARED = ("parallel=fsdp2",)


class Kinds:
    """accelerate's kinds of processes, with a processor among the accelerators."""

    def __init__(self, known: type) -> None:
        self.known = known

    def __getattr__(self, name: str) -> object:
        return self.known.MULTI_CPU if name == "MULTI_NEURON" else getattr(self.known, name)


@pytest.fixture(autouse=True)
def _processors_are_accelerators(monkeypatch):
    monkeypatch.setattr(accelerate.state, "DistributedType", Kinds(accelerate.state.DistributedType))
    monkeypatch.setattr(parallel, "_check_device", lambda _: None)


def together(recipe: list[str], folder: Path, callbacks: dict | None = None) -> RunFolder:
    run = planned_for_two(recipe, folder)
    wanted = {75} if callbacks else {0}
    ends = both_ended(two_ranks(run, callbacks), run)
    assert {end.code for end in ends} == wanted, [end.output for end in ends]
    return run


@pytest.mark.parametrize("recipe", [FULL, LORA], ids=["full", "lora"])
def test_shares_train_what_whole_copies_do_and_a_stopped_run_goes_on(recipe, tmp_path):
    whole = together([*recipe, "parallel=ddp"], tmp_path / "ddp")
    shared = together([*recipe, *SHARED], tmp_path / "fsdp")
    (file,) = [each.name for each in whole.model.glob("*model.safetensors")]
    one, other = load_file(whole.model / file), load_file(shared.model / file)
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}
    assert max((one[name] - other[name]).abs().max() for name in one) < 1e-5
    together([*recipe, *SHARED], tmp_path / "stopped", {0: [Kill(4, signal.SIGTERM)]})
    stopped = together([*recipe, *SHARED], tmp_path / "stopped")
    assert outcome(stopped.path)["model"] == outcome(shared.path)["model"]
