"""What makes a run fit: overrides that do, the cheapest first."""

from dataclasses import replace

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from finetune.estimate.changes import Situation, changes
from finetune.estimate.memory import estimate
from finetune.estimate.setup import Setup

SETUP = Setup(rows=8, length=256, compute="bf16")


def build(adapter):
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=8, vocab_size=8192
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    return model if adapter == "full" else get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))


def found(budget, **more):
    return changes(Situation(SETUP, "full", build, 64, **more), budget)


def test_what_costs_nothing_comes_first():
    needed = estimate(build("full"), SETUP).needed

    first = found(needed - 2**20, chunked_by="trainer.loss_type=nll")[0]

    assert first.overrides == ("trainer.loss_type=nll",)
    assert first.estimate.needed < needed


def test_three_fit_and_keep_the_global_batch():
    budget = int(estimate(build("full"), SETUP).needed * 0.7)

    options = found(budget)

    assert len(options) == 3
    assert all(option.estimate.needed <= budget for option in options)
    for option in options:
        rows = any("per_device_train_batch_size" in word for word in option.overrides)
        assert rows == ("global_batch_size=64" in option.overrides)


def test_changes_are_stacked_where_one_is_not_enough():
    small = estimate(build("full"), SETUP).reserve + 300 * 2**20

    options = found(small)

    assert options
    assert min(len(option.overrides) for option in options) > 1


def test_nothing_is_promised_where_nothing_fits():
    assert found(2**20) == []


def test_without_bitsandbytes_nothing_needs_it():
    budget = int(estimate(build("full"), SETUP).needed * 0.7)

    words = " ".join(word for option in found(budget, bitsandbytes=False) for word in option.overrides)

    assert "8bit" not in words
    assert "qlora" not in words


def test_rows_that_are_scored_at_once_are_made_fewer_where_they_are_what_is_too_much():
    many = replace(SETUP, scored_rows=64)
    assert estimate(build("full"), many).moment == "loss of evaluation"
    first = changes(Situation(many, "full", build, 64), estimate(build("full"), SETUP).needed)[0]
    assert first.overrides == ("evaluation.batch_size=16",)


def test_images_are_scored_by_their_number_whatever_their_files_take():
    shapes = {"pixel_values": ((3, 8, 8), "float32")}
    assert replace(SETUP, scored_length=512).scored == 2
    assert replace(SETUP, scored_length=512, shapes=shapes).scored == 1
    assert replace(SETUP, scored_rows=16, shapes=shapes).scored == 2
