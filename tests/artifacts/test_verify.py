"""How far the scores of a reloaded model may lie from those of the trained one."""

import pytest

from finetune.artifacts.verify import same_scores

TRAINED = {"loss": 0.7, "accuracy": 0.8, "bleu": 40.0}


@pytest.mark.parametrize(
    ("reloaded", "rows", "passes"),
    [
        ({}, 10, True),
        ({"accuracy": 0.7}, 10, True),  # a tie decides one row of ten
        ({"accuracy": 0.6}, 10, False),
        ({"accuracy": 0.79}, 256, False),
        ({"bleu": 37.0}, 10, True),
        ({"bleu": 37.0}, 20, False),
        ({"loss": 0.701}, 10, True),
        ({"loss": 0.71}, 10, False),  # the loss has no ties, however few the rows
    ],
)
def test_a_row_may_be_decided_otherwise_by_a_tie_and_the_loss_may_not(reloaded, rows, passes):
    assert same_scores({**TRAINED, **reloaded}, TRAINED, rows).passed is passes


def test_a_score_that_is_gone_is_none_of_the_trained_model_s():
    assert not same_scores({"loss": 0.7, "accuracy": 0.8}, TRAINED, 10).passed
