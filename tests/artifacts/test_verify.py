"""How far the scores of a reloaded model may lie from those of the trained one."""

from datetime import datetime

import pytest
from tiny import CHATML, chat_tokenizer

from finetune.artifacts.verify import _same_rendering, same_scores
from finetune.plan.run_folder import RunFolder

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


DATED = "{{ strftime_now('%Y-%m-%d %H:%M:%S') }}" + CHATML


@pytest.mark.parametrize(("hour", "passes"), [(23, True), (22, False)])
def test_a_template_that_writes_the_date_is_compared_on_the_date_of_the_training(hour, passes, tmp_path):
    """A run that begins before midnight is verified after it."""
    tokenizer, began = chat_tokenizer(template=DATED), datetime(2026, 5, 1, 23, 59)
    messages = [{"role": "user", "content": "hello"}]
    text = chat_tokenizer().apply_chat_template(messages, tokenize=False)
    row = {"messages": messages, "tools": None, "text": f"{began.replace(hour=hour)}{text}", "at": began.isoformat()}
    folder = RunFolder(tmp_path)
    folder.write("rendered.json", [row])
    (finding,) = _same_rendering(tokenizer, folder)
    assert finding.passed is passes
