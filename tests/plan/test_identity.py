"""What a run must agree with: what differs is refused by name, and what is accepted must be a field."""

import pytest

from finetune.errors import UserError
from finetune.plan import identity

BEGAN = {"trainer.learning_rate": 1e-4, "seeds.data": 1, "total_steps": 10}


def test_what_differs_is_refused_with_both_values_and_the_way_out():
    with pytest.raises(UserError) as refused:
        identity.check(BEGAN, {**BEGAN, "total_steps": 20, "seeds.data": 2}, ["seeds.data"], "runs/a")
    assert str(refused.value).splitlines()[1:] == [
        "  total_steps: 10 → 20",
        "  Write the old value again, or accept the new one: checkpoint.accept=[seeds.data,total_steps]",
    ]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("learning_rate", "trainer.learning_rate"), ("trainer.learnign_rate", "trainer.learning_rate")],
)
def test_an_accepted_field_that_is_none_is_refused_with_the_nearest(written, meant):
    with pytest.raises(UserError, match=rf"checkpoint.accept=\[{written}\]: .* Did you mean {meant}\?"):
        identity.check(BEGAN, BEGAN, [written], "runs/a")


def test_what_a_version_before_held_against_a_run_is_not_held_any_more():
    assert identity.check({**BEGAN, "trainer.hub_strategy": "every_save"}, BEGAN, [], "runs/a") == []
