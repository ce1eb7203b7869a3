"""Texts written from others: trained by every method, scored by what is generated, and asked."""

import json
import re
from functools import cache

import pytest
from tiny_runs import LORA, SPOKEN, config, finetune, own_caches, root, translate, worked

from finetune.artifacts import verify
from finetune.artifacts.predict import answering
from finetune.data.prepare import prepare
from finetune.errors import UserError

METHODS = {
    "full": (),
    "lora": (*LORA, "adapter.r=16"),
    "qlora": ("adapter=qlora", "adapter.lora_dropout=0"),
    "smoothed": ("trainer.label_smoothing_factor=0.1",),
    "prompt": ("adapter=prompt",),
}


@cache
def trained(method):
    return worked(translate(*METHODS[method], "trainer.max_steps=60", f"name=seq2seq_{method}"), root() / "runs")


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_model_is_better_than_the_untouched_one_and_is_verified(method):
    found = trained(method).read("evaluation.json")
    assert found["score"] == ["sacrebleu", True]
    assert found["scores"]["loss"] < found["baseline"]["loss"]
    if method != "prompt":
        assert found["scores"]["chrf"] > found["baseline"]["chrf"] + 10
    with own_caches():
        findings = verify.compare(trained(method))
    assert all(finding.passed for finding in findings), findings
    assert "generation" in {finding.name for finding in findings}
