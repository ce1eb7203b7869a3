"""The config of a rehearsal: what it keeps of the recipe, what it leaves out, and that it says so."""

from pathlib import Path

import pytest
from tiny_runs import config

from finetune.config.data import DatasetConfig
from finetune.rehearse.shrink import STEPS, resumed, shrunk

RECIPE = ("task=sft", "model.path=me/model", "dataset.path=me/data")


def small(*more):
    adapter = () if any(each.startswith("adapter=") for each in more) else ("adapter=lora",)
    return shrunk(config((*RECIPE, *adapter, *more)), Path("base"), DatasetConfig(path="rows"), Path("runs"))


def said(*more):
    return {item.name: item.by for item in small(*more)[1]}


def test_a_plain_recipe_loses_nothing_that_has_to_be_said():
    assert said() == {}


@pytest.mark.parametrize(
    ("setting", "name", "by"),
    [
        ("tracking=wandb", "tracking=wandb", "metrics.jsonl"),
        ("publish.repo_id=me/x publish=hub", "publish=hub", "nothing is uploaded"),
        ("precision=fp16", "precision=fp16", "auto: fp16 needs a GPU"),
        ("quantization=hqq", "quantization=hqq", "none: it does not work here"),
        (
            "model.attn_implementation=flash_attention_2",
            "model.attn_implementation=flash_attention_2",
            "the type's own",
        ),
        ("trainer.tf32=true", "trainer.tf32", "left out: it needs a GPU"),
    ],
)
def test_what_cannot_be_rehearsed_here_is_left_out_and_said(setting, name, by):
    assert said(*setting.split())[name] == by


def test_layers_chosen_by_number_are_all_that_are_left():
    lora = ("adapter=lora", "adapter.target_modules=[q_proj]", "adapter.layers_to_transform=[20,21]")
    made, replaced = small(*lora)
    assert [item.name for item in replaced] == ["adapter.layers_to_transform"]
    assert made.adapter == config((*RECIPE, *lora[:2])).adapter


def test_adapters_and_quantization_stay():
    made, replaced = small("adapter=qlora")
    whole = config((*RECIPE, "adapter=qlora"))
    assert (made.adapter, made.quantization, replaced) == (whole.adapter, whole.quantization, [])


def test_two_steps_accumulate_where_the_recipe_does():
    assert small("trainer.per_device_train_batch_size=4")[0].trainer.get("gradient_accumulation_steps", 1) == 1
    made = small("trainer.per_device_train_batch_size=4", "global_batch_size=64")[0]
    assert (made.global_batch_size, made.trainer["gradient_accumulation_steps"], made.trainer["max_steps"]) == (
        None,
        2,
        STEPS,
    )


def test_a_schedule_longer_than_the_rehearsal_fits_into_it():
    trainer = small("trainer.warmup_steps=500", "trainer.eval_strategy=epoch", "trainer.resume_from_checkpoint=x")[
        0
    ].trainer
    assert (trainer["warmup_steps"], trainer["eval_strategy"], trainer["eval_steps"]) == (0, "steps", 1)
    assert "resume_from_checkpoint" not in trainer


def test_few_answers_of_few_tokens():
    generation = small("evaluation=generation")[0].evaluation.generation
    assert (generation.rows, generation.max_new_tokens) == (2, 8)


def test_going_on_from_a_checkpoint_changes_nothing_else():
    first = small()[0]
    again = resumed(first, Path("run/checkpoints/checkpoint-1"))
    assert again.trainer == first.trainer | {"resume_from_checkpoint": "run/checkpoints/checkpoint-1"}
    assert (again.task, again.model, again.dataset) == (first.task, first.model, first.dataset)
