"""Options inside options, limits of numbers, and numbers that are none."""

import pytest

from finetune.config import options

INSIDE = [
    (
        ("trainer.lr_scheduler_type=cosine_with_min_lr", "trainer.lr_scheduler_kwargs={min_lrr: 1.0e-6}"),
        "trainer.lr_scheduler_kwargs.min_lrr",
        "Did you mean min_lr?",
    ),
    (("trainer.lr_scheduler_kwargs={num_cycles: a}",), "trainer.lr_scheduler_kwargs.num_cycles", "expected a number"),
    (
        ("trainer.lr_scheduler_type=linear", "trainer.lr_scheduler_kwargs={num_cycles: 1}"),
        "trainer.lr_scheduler_kwargs.num_cycles",
        "trainer.lr_scheduler_type=linear takes no such option",
    ),
    (
        ("trainer.optim=sgd", "trainer.optim_args='momentm=0.9'"),
        "trainer.optim_args.momentm",
        "Did you mean momentum?",
    ),
    (
        ("trainer.optim=adamw_torch", "trainer.optim_args='momentum=0.9'"),
        "trainer.optim_args.momentum",
        "Options: none",
    ),
    (
        ("trainer.accelerator_config={split_batche: true}",),
        "trainer.accelerator_config.split_batche",
        "Did you mean split_batches?",
    ),
    (("trainer.accelerator_config={split_batches: 3}",), "trainer.accelerator_config.split_batches", "true or false"),
    (
        ("trainer.activation_checkpointing=true", "trainer.activation_checkpointing_kwargs={use_rentrant: true}"),
        "trainer.activation_checkpointing_kwargs.use_rentrant",
        "Did you mean use_reentrant?",
    ),
    (
        ("adapter=lora", "adapter.init_lora_weights=eva", "++adapter.eva_config={rh: 2.0}"),
        "adapter.eva_config",
        "Did you mean rho?",
    ),
]


@pytest.mark.parametrize(("written", "key", "hint"), INSIDE)
def test_an_option_inside_an_option_is_held_to_what_its_neighbour_takes(told, written, key, hint):
    message = told(*written)
    assert message.startswith("1 problem")
    assert f"{key} (command line): " in message
    assert hint in message


@pytest.mark.parametrize(
    "written",
    [
        ("trainer.lr_scheduler_type=polynomial", "trainer.lr_scheduler_kwargs={power: 2.0}"),
        ("trainer.lr_scheduler_type=reduce_lr_on_plateau", "trainer.lr_scheduler_kwargs={patience: 2}"),
        ("trainer.optim=sgd", "trainer.optim_args='momentum=0.9,nesterov=true'"),
        ("trainer.optim=ademamix", "trainer.optim_args='beta3=0.99'"),
        ("trainer.accelerator_config={even_batches: false}",),
        (
            "trainer.activation_checkpointing=true",
            "trainer.activation_checkpointing_kwargs={preserve_rng_state: false}",
        ),
    ],
)
def test_what_the_neighbour_takes_is_accepted(config, written):
    config(*written)


def test_of_a_wrong_neighbour_nothing_more_is_said(told):
    message = told("trainer.optim=sgdd", "trainer.optim_args='momentum=0.9'")
    assert message.startswith("1 problem")
    assert "Did you mean sgd?" in message


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("trainer.learning_rate=-1", "more than 0"),
        ("trainer.learning_rate=0", "more than 0"),
        ("trainer.adam_beta1=1", "less than 1"),
        ("trainer.weight_decay=-0.1", "0 or more"),
        ("trainer.per_device_train_batch_size=0", "1 or more"),
        ("trainer.gradient_accumulation_steps=0", "1 or more"),
        ("trainer.max_steps=-3", "-1 or more"),
        ("trainer.save_total_limit=0", "1 or more"),
        ("adapter.lora_dropout=1.5", "less than 1"),
    ],
)
def test_a_number_outside_its_limits_is_refused(told, written, expected):
    assert f"expected {expected}." in told("adapter=lora", written)


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
def test_a_number_that_is_none_is_refused(told, write, number):
    message = told(write(f"trainer:\n  weight_decay: {number}"))
    assert "trainer.weight_decay (mine.yaml:2" in message
    assert "expected" in message


def test_defaults_are_the_library_s():
    found = options.of("transformers.TrainingArguments")
    assert found["learning_rate"].default == 5e-5
    assert found["eval_strategy"].default == "no"
    assert found["max_steps"].default == -1


class TestGeneration:
    def given(self, text):
        return f"++evaluation.generation={{rows: 2, generation_config: {text}}}"

    def test_options_of_decoding_are_the_library_s(self, config):
        found = config(self.given("{do_sample: true, temperature: 0.7, num_beams: 1}"))
        assert found.evaluation.generation.generation_config["temperature"] == 0.7

    @pytest.mark.parametrize(
        ("text", "key", "hint"),
        [
            ("{do_sampel: true}", "do_sampel", "Did you mean do_sample?"),
            ("{temperature: 0.7}", "temperature", "do_sample=true as well"),
            ("{max_new_tokens: 7}", "max_new_tokens", "decided here"),
        ],
    )
    def test_others_are_refused(self, told, text, key, hint):
        message = told(self.given(text))
        assert f"evaluation.generation.generation_config.{key} (command line)" in message
        assert hint in message
