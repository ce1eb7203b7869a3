"""Models held in shares: FSDP2 and ZeRO of the real trainer in two processes over gloo, saved whole, gone on with.

accelerate gives FSDP to accelerators alone. Here it is told that a processor is one: what follows is all its own.
"""

import importlib.util
import signal
from collections.abc import Sequence
from pathlib import Path

import accelerate.state
import pytest
import tiny_runs
from crash import SMALL, Kill, both_ended, once, planned_for_ranks, started_ranks, trained
from safetensors.torch import load_file

from finetune.plan import parallel
from finetune.plan.run_folder import RunFolder

STEPS = ("global_batch_size=8", "trainer.per_device_train_batch_size=2")
FULL = tiny_runs.chat(*SMALL, *STEPS)
LORA = tiny_runs.classify(*SMALL, *STEPS, "adapter=lora", "adapter.lora_dropout=0")
NO_DEEPSPEED = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the extra deepspeed")


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


def together(recipe: Sequence[str], folder: Path, callbacks: dict | None = None) -> RunFolder:
    run = planned_for_ranks(recipe, folder)
    wanted = {75} if callbacks else {0}
    ends = both_ended(started_ranks(run, callbacks), run)
    assert {end.code for end in ends} == wanted, [end.output for end in ends]
    return run


def scores(run: RunFolder) -> dict[str, float]:
    return run.read("evaluation.json")["scores"]


def check_same(run: RunFolder, alone: RunFolder) -> None:
    """The same model but for the order of sums, whole, under the same names."""
    (file,) = [each.name for each in alone.model.glob("*model.safetensors")]
    one, other = load_file(alone.model / file), load_file(run.model / file)
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}
    assert max((one[name] - other[name]).abs().max() for name in one) < 2e-4
    assert scores(run) == pytest.approx(scores(alone), rel=1e-3)


def alone(recipe: Sequence[str], folder: Path) -> RunFolder:
    end = once(lambda: trained(recipe, folder), folder)
    assert end.code == 0, end.output
    return RunFolder(folder)


@pytest.mark.parametrize(
    ("recipe", "method"),
    [
        (FULL, "fsdp2"),
        pytest.param(FULL, "zero2", marks=NO_DEEPSPEED),
        pytest.param(LORA, "zero2", marks=NO_DEEPSPEED),
        pytest.param(FULL, "zero3_offload", marks=NO_DEEPSPEED),
    ],
    ids=lambda value: value if isinstance(value, str) else "lora" if "adapter=lora" in value else "full",
)
def test_shares_train_what_one_process_does_and_a_stopped_run_goes_on(recipe, method, tmp_path):
    shared = [*recipe, f"parallel={method}"]
    together(shared, tmp_path / "run", {0: [Kill(4, signal.SIGTERM)]})
    check_same(together(shared, tmp_path / "run"), alone(recipe, tmp_path / "alone"))


def test_what_shares_have_saved_goes_on_in_one_process(tmp_path):
    together([*LORA, "parallel=fsdp2"], tmp_path / "run", {1: [Kill(7, signal.SIGTERM)]})
    gone_on = alone([*LORA, "checkpoint.accept=[parallel.method]"], tmp_path / "run")
    check_same(gone_on, alone(LORA, tmp_path / "alone"))
