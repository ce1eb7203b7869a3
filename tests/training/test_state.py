"""Optimizers, schedulers and generators come back as they were, and no pickle is needed."""

import random
from collections import defaultdict

import numpy as np
import pytest
import torch

from finetune.training import generators, state


def test_nested_values_come_back_with_their_types(tmp_path):
    value = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(4, 3)}, 7: {"half": torch.ones(2).bfloat16()}},
        "betas": (0.9, 0.999), "params": [0, 1], "none": None, "inf": float("inf"), "on": True, 5: "five",
        "empty": {}, "scalar": np.float64(0.1), "array": np.arange(3),
    }  # fmt: skip
    state.save(value, tmp_path, "kept")
    found = state.load(tmp_path, "kept")
    assert found.keys() == value.keys()
    assert found["betas"] == (0.9, 0.999)
    assert isinstance(found["betas"], tuple)
    assert found["params"] == [0, 1]
    assert found["inf"] == float("inf")
    assert found["on"] is True
    assert found["scalar"] == 0.1
    assert list(found["state"]) == [0, 7]
    assert torch.equal(found["state"][0]["exp_avg"], value["state"][0]["exp_avg"])
    assert found["state"][7]["half"].dtype == torch.bfloat16
    assert np.array_equal(found["array"], np.arange(3))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_a_view_of_a_larger_tensor_is_kept_alone(tmp_path):
    whole = torch.arange(10.0)
    state.save({"a": whole[2:4], "b": whole[5:]}, tmp_path, "views")
    found = state.load(tmp_path, "views")
    assert found["a"].tolist() == [2.0, 3.0]
    assert found["b"].tolist() == [5.0, 6.0, 7.0, 8.0, 9.0]


def test_what_only_a_pickle_could_keep_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match="a Random cannot be kept without a pickle"):
        state.save({"x": random.Random()}, tmp_path, "kept")


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor])
def test_an_optimizer_goes_on_as_if_it_had_never_stopped(optimizer, tmp_path):
    def steps(weights: torch.nn.Parameter, made: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            made.zero_grad()
            (weights * weights.roll(1)).sum().backward()
            made.step()

    first = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
    left_alone = optimizer([first], lr=0.1)
    steps(first, left_alone, 3)
    state.save(left_alone.state_dict(), tmp_path, "optimizer")
    second = torch.nn.Parameter(first.detach().clone())
    resumed = optimizer([second], lr=0.1)
    resumed.load_state_dict(state.load(tmp_path, "optimizer"))
    steps(first, left_alone, 3)
    steps(second, resumed, 3)
    assert torch.equal(first, second)


def drawn() -> tuple:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_every_generator_goes_on_where_it_was(tmp_path):
    generators.seed(3)
    drawn()
    state.save(generators.states(), tmp_path, "generators")
    expected = drawn()
    generators.seed(9)
    generators.restore(state.load(tmp_path, "generators"))
    assert drawn() == expected


def test_borrowed_generators_are_given_back():
    generators.seed(3)
    before = generators.states()
    with generators.borrowed(5):
        first = drawn()
    assert torch.equal(before["torch"], torch.get_rng_state())
    with generators.borrowed(5):
        assert drawn() == first


def test_every_number_of_a_mixed_seed_counts():
    assert len({generators.mixed(*numbers) for numbers in ((1, 2), (2, 1), (1, 3), (1,), (1, 2, 0))}) == 5


def test_metrics_of_a_trainer_are_kept_though_they_make_themselves_up(tmp_path):
    metrics = {"train": defaultdict(list)}
    metrics["train"]["entropy"].append(0.5)
    state.save(metrics, tmp_path, "sums")
    assert state.load(tmp_path, "sums") == {"train": {"entropy": [0.5]}}
