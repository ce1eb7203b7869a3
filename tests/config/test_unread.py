"""Keys that are set and that nothing reads, and keys that cannot stand together."""

import pytest

from finetune.config.check import dump, load_config
from finetune.config.conflicts import CONFLICTS
from finetune.config.unread import RULES

IDLE = {
    "dataset.name": (
        "dataset.name=a",
        "dataset.path=tests",
        "dataset.path=tests is read without a README.md that declares",
    ),
    "dataset.revision": ("dataset.revision=a", "dataset.path=recipes://data/wordnet", "of this machine"),
    "dataset.validation_size": (
        "dataset.validation_size=5",
        "dataset.validation_split=dev",
        "no validation split is cut",
    ),
    "dataset.stratify": ("dataset.stratify=true", "dataset.validation_split=dev", "no validation split is cut"),
    "dataset.mixture": ("dataset.mixture.temperature=2", "dataset.path=.", "there is one source"),
    "dataset.mixture.weigh": (
        "dataset.mixture.weigh=tokens",
        "dataset.sources=[{path:a},{path:b}]",
        "no source has a weight",
    ),
    "task.turn_weight": ("task.turn_weight=train", "task.mask=assistant", "task.mask=assistant"),
    "task.train_reasoning": ("task.train_reasoning=false", "task.mask=all", "task.mask=all trains every token"),
    "task.overlong": ("task.overlong=split", "packing=wrapped", "packing=wrapped cuts a text"),
    "tokenizer.revision": ("tokenizer.revision=a", "", "own"),
    "model.revision": ("model.revision=a", "model.path=.", "lies on this machine"),
    "model.fallback_for": ("model.fallback_for=a", "", "there is no model.fallback_path"),
    "model.sha256": ("model.sha256=ab", "model.from_config=true", "reads no weights"),
    "launch.nproc_per_node": ("launch.nproc_per_node=2", "", "is this one process; write launch=torchrun"),
    "launch.partition": (
        "launch.partition=gpu",
        "launch=torchrun",
        "launch=torchrun queues no job; write launch=slurm",
    ),
    "parallel.offload": (
        "parallel.offload=true",
        "parallel=zero2",
        "parallel=zero2 keeps nothing in the host's memory",
    ),
    "launch.volume": ("launch.volume=a:/b", "launch=slurm", "launch=slurm has no such thing"),
    "launch.modules": (
        "launch.modules=[cuda]",
        "launch=kubernetes launch.container_image=a launch.volume=a:/b",
        "launch=kubernetes has no such thing",
    ),
    "launch.time": ("launch.time=5", "launch=skypilot launch.container_image=a", "launch=skypilot has no such thing"),
    "launch.requeue": ("launch.requeue=false", "launch=ray", "launch=ray has no such thing"),
    "launch.container_mounts": ("launch.container_mounts=[/a:/a]", "launch=slurm", "no launch.container_image"),
    "evaluation.early_stopping_threshold": ("evaluation.early_stopping_threshold=0.1", "", "does not stop early"),
    "evaluation.generation.max_new_tokens": ("evaluation.generation.max_new_tokens=9", "", "nothing is generated"),
    "trainer.per_device_eval_batch_size": (
        "trainer.per_device_eval_batch_size=2",
        "evaluation.batch_size=4",
        "decides",
    ),
    "tracking.project": ("tracking.project=a", "", "write tracking=wandb"),
    "publish.commit_message": ("publish.commit_message=a", "", "publish.to is none"),
    "trainer.num_train_epochs": ("trainer.num_train_epochs=2", "trainer.max_steps=5", "trainer.max_steps=5 decides"),
    "trainer.save_steps": ("trainer.save_steps=5", "trainer.save_strategy=epoch", "trainer.save_strategy=epoch"),
    "trainer.save_total_limit": ("trainer.save_total_limit=5", "trainer.save_strategy=no", "saves no checkpoint"),
    "trainer.eval_steps": ("trainer.eval_steps=5", "", "trainer.eval_strategy=no"),
    "trainer.eval_delay": ("trainer.eval_delay=5", "", "scores nothing while training"),
    "trainer.logging_steps": ("trainer.logging_steps=5", "trainer.logging_strategy=epoch", "logging_strategy=epoch"),
    "trainer.metric_for_best_model": ("trainer.metric_for_best_model=f1", "", "load_best_model_at_end is off"),
    "trainer.activation_checkpointing_kwargs": (
        "trainer.activation_checkpointing_kwargs={use_reentrant: true}",
        "trainer.activation_checkpointing=false",
        "is off",
    ),
    "trainer.dataloader_prefetch_factor": ("trainer.dataloader_prefetch_factor=2", "", "num_workers is 0"),
    "trainer.warmup_steps": (
        "trainer.warmup_steps=3",
        "trainer.lr_scheduler_type=constant",
        "constant warms nothing up",
    ),
    "trainer.adam_beta1": ("trainer.adam_beta1=0.8", "trainer.optim=sgd", "trainer.optim=sgd has no such number"),
    "adapter.eva_config": ("++adapter.eva_config={rho: 1.0}", "adapter=lora", "adapter.init_lora_weights=True"),
    "adapter.layers_pattern": ("adapter.layers_pattern=h", "adapter=lora", "layers_to_transform is not set"),
    "quantization.bnb_4bit_quant_type": (
        "quantization.bnb_4bit_quant_type=nf4",
        "quantization=bitsandbytes_8bit adapter=lora",
        "bitsandbytes_8bit",
    ),
    "quantization.llm_int8_threshold": (
        "quantization.llm_int8_threshold=5.0",
        "quantization=bnb_4bit adapter=lora",
        "bitsandbytes_4bit",
    ),
    "trainer.length_column_name": ("trainer.length_column_name=n", "", "trainer.train_sampling_strategy=random"),
    "adapter.loftq_config": (
        "++adapter.loftq_config={loftq_bits: 4}",
        "adapter=lora",
        "adapter.init_lora_weights=True",
    ),
    "adapter.corda_config": (
        "++adapter.corda_config={corda_method: ipm}",
        "adapter=lora",
        "adapter.init_lora_weights=True",
    ),
    "trainer.liger_kernel_config": ("trainer.liger_kernel_config={rope: true}", "", "use_liger_kernel is off"),
}


@pytest.mark.parametrize("key", IDLE)
def test_a_key_that_nothing_reads_is_refused_with_the_reason(told, key):
    written, with_it, reason = IDLE[key]
    message = told(written, *with_it.split())
    assert f"{key} (command line): is set, and nothing reads it: " in message
    assert reason in message


@pytest.mark.parametrize("key", IDLE)
def test_the_same_key_left_out_is_fine(config, key):
    config(*IDLE[key][1].split())


def test_the_name_of_a_configuration_is_read_where_a_folder_can_declare_some(config, told, tmp_path):
    (tmp_path / "README.md").write_text("---\nconfigs: []\n---\n")
    assert config("dataset.name=a", f"dataset.path={tmp_path}").dataset.name == "a"
    assert "nothing reads it" in told("dataset.name=a", f"dataset.path={tmp_path}", "dataset.data_files=a.jsonl")


def test_every_rule_has_an_example():
    for rule in RULES:
        assert set(rule.keys) & set(IDLE), rule.keys


@pytest.mark.parametrize(("key", "value"), [("tokenizer.chat_template", "'{{x}}'"), ("evaluation.generation.rows", 3)])
def test_what_a_task_never_reads_is_refused(told, key, value):
    message = told("task=sequence_classification", f"{key}={value}")
    assert "is set, and nothing reads it" in message
    assert message.startswith("1 problem")


class TestOverruled:
    """A later choice may make an earlier key idle: a short try of a recipe is one override."""

    RECIPE = "trainer: {num_train_epochs: 3}\n"

    def test_on_the_command_line_over_a_recipe(self, write):
        _, composed = load_config([write(self.RECIPE), "model.path=m", "dataset.path=d", "trainer.max_steps=2"])
        assert composed.notes == (
            "trainer.num_train_epochs (mine.yaml:1:11) is idle: trainer.max_steps=2 decides how long the run is",
        )

    def test_twice_on_the_command_line_the_last_one_counts(self):
        config, composed = load_config(["recipe=quickstart", "seed=1", "seed=2"])
        assert config.seed == 2
        assert composed.notes == ("seed=1 is idle: seed=2 comes after it",)

    def test_in_one_recipe_it_is_a_contradiction(self, told, write):
        assert "nothing reads it" in told(write("trainer: {num_train_epochs: 3, max_steps: 2}"))

    def test_by_an_heir_over_its_parent(self, write, config):
        write(self.RECIPE, "parent.yaml")
        config(write("defaults: [./parent.yaml]\ntrainer: {max_steps: 2}"))

    def test_by_a_parent_it_is_a_contradiction_of_the_heir(self, write, told):
        write("trainer: {max_steps: 2}", "parent.yaml")
        assert "nothing reads it" in told(write("defaults: [./parent.yaml]\ntrainer: {num_train_epochs: 3}"))


def test_a_config_that_was_dumped_writes_idle_keys_and_is_a_recipe(config, write):
    import yaml

    before = config("trainer.max_steps=2", "task=sequence_classification")
    again, _ = load_config([write(yaml.safe_dump(dump(before)))])
    assert again == before


AT_ODDS = {
    "adapter.method": ("quantization=bnb_4bit", "Write adapter=qlora"),
    "precision.trainable": ("precision=fp16 precision.trainable=bf16", "Write precision=bf16_pure"),
    "publish.repo_id": ("publish=hub", "Write publish.repo_id=me/my-model"),
    "trainer.activation_checkpointing": (
        "adapter=prefix trainer.activation_checkpointing=true", "Write trainer.activation_checkpointing=false",
    ),
    "launch.container_image": ("launch=kubernetes launch.volume=a:/b", "Write launch.container_image=IMAGE"),
    "launch.volume": ("launch=skypilot launch.container_image=a launch.nodes=2", "Write launch.volume=NAME:/PATH"),
    "launch.setup": ("launch=skypilot", "Write launch.setup=FILE"),
    "launch.nodes": ("launch=ray launch.nodes=2", "Leave launch.nodes out"),
    "model.from_config": ("model.from_config=true adapter=lora", "Write adapter=full"),
    "evaluation.early_stopping_patience": (
        "evaluation.early_stopping_patience=2", "Write trainer.load_best_model_at_end=true",
    ),
    "trainer.load_best_model_at_end": ("trainer.load_best_model_at_end=true", "Write trainer.eval_strategy=epoch"),
}  # fmt: skip


@pytest.mark.parametrize("key", AT_ODDS)
def test_keys_that_cannot_stand_together_are_refused(told, key):
    written, hint = AT_ODDS[key]
    message = told(*written.split())
    assert f"{key} (" in message
    assert "conflicts with " in message
    assert hint in message


def test_every_conflict_has_an_example():
    assert {each.key for each in CONFLICTS} == set(AT_ODDS)


def test_the_best_model_must_be_saved_where_it_is_scored(told):
    wanted = "trainer.load_best_model_at_end=true", "trainer.eval_strategy=steps", "trainer.eval_steps=5"
    assert "where each scored one is saved" in told(*wanted)


@pytest.mark.parametrize("steps", ["trainer.eval_steps=10 trainer.save_steps=20", "trainer.eval_steps=10"])
def test_a_best_model_that_is_scored_more_often_than_it_is_saved_is_refused(told, steps):
    wanted = "trainer.load_best_model_at_end=true", "trainer.eval_strategy=steps", "trainer.save_strategy=steps"
    assert "Write trainer.save_steps as trainer.eval_steps" in told(*wanted, *steps.split())


def test_an_option_of_sbatch_that_another_key_sets_is_refused(told):
    message = told("launch=slurm", "launch.sbatch={time: 5, hint: nomultithread}")
    assert "launch.sbatch.time (command line): the script sets --time by launch.time." in message
    assert "hint" not in message
