"""What is accepted, and what a user is told of a mistake: the place, what was expected, what to write."""

import mutations
import pytest

from finetune.config import groups, inheritance, options, places, recipes
from finetune.config.compose import compose
from finetune.config.installed import tasks


class TestMisspelt:
    def test_a_group(self, told):
        assert "adaptr (command line): there is no such key.\n    Did you mean adapter?" in told("adaptr=lora")

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("adapter=lroa", "adapter=lora"),
            ("quantization=bnb_4bitt", "quantization=bnb_4bit"),
            ("task=sequence_classificatoin", "task=sequence_classification"),
            ("evaluation=genertion", "evaluation=generation"),
            ("precision=bf61", "precision=bf16"),
        ],
    )
    def test_an_option(self, told, written, meant):
        group, _, option = written.partition("=")
        message = told(written)
        assert f"{group} (command line): {option} is not an option of {group}.\n    Did you mean {meant}?" in message

    def test_an_option_like_nothing_lists_the_options(self, told):
        assert "Options: auto, bf16, bf16_pure, fp16, fp32" in told("precision=zzzzzz")

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("trainer.learnig_rate=1", "trainer.learning_rate"),
            ("dataset.pth=a", "dataset.path"),
            ("evaluation.generation.row=1", "evaluation.generation.rows"),
            ("task.maks=all", "task.mask"),
            ("seeed=1", "seed"),
            ("publish.pirvate=true", "publish.private"),
            ("dataset.columns.promt=x", "dataset.columns.prompt"),
        ],
    )
    def test_a_key(self, told, written, meant):
        message = told(written)
        assert f"{written.partition('=')[0]} (command line)" in message
        assert f"Did you mean {meant}?" in message

    def test_a_key_of_a_recipe_is_located(self, told, write):
        message = told(write("seed: 1\ntrainer:\n  learnig_rate: 1.0e-3"))
        assert "trainer.learnig_rate (mine.yaml:3:3)" in message
        assert "Did you mean trainer.learning_rate?" in message

    def test_a_key_like_nothing_lists_the_keys(self, told):
        assert "Keys here: name, mask, " in told("task.zzzz=1")

    def test_a_dotted_key_in_a_file(self, told, write):
        message = told(write("evaluation.generation.rows: 3"))
        assert "In a file a key is nested: evaluation: {generation: {rows: …}}" in message

    def test_a_key_that_is_a_number(self, told, write):
        assert "1 (mine.yaml:1:1): there is no such key." in told(write("1: 2"))


class TestMisplaced:
    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("learning_rate=1", "trainer.learning_rate"),
            ("learnig_rate=1", "trainer.learning_rate"),
            ("max_length=9", "tokenizer.max_length"),
            ("mask=all", "task.mask"),
            ("limit=5", "dataset.limit"),
            ("trainer.limit=5", "dataset.limit"),
            ("compute=bf16", "precision.compute"),
            ("revision=x", "dataset.revision or tokenizer.revision or model.revision"),
        ],
    )
    def test_a_key_of_another_group(self, told, written, meant):
        assert f"Did you mean {meant}?" in told(written)

    def test_an_option_of_the_chosen_adapter(self, told):
        assert "Did you mean adapter.r?" in told("adapter=lora", "r=8")
        assert "Did you mean adapter.lora_alpha?" in told("adapter=lora", "lora_alpha=8")

    def test_an_option_of_another_task(self, told):
        message = told("task=sequence_classification", "task.mask=all")
        assert "task.mask (command line): there is no such key.\n    Keys here: name, problem_type" in message

    def test_a_role_of_another_task(self, told):
        assert "Roles: text, text_pair, label" in told("task=sequence_classification", "dataset.columns.messages=x")


class TestTypes:
    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("trainer.learning_rate=fast", "wrote 'fast', expected a number."),
            ("trainer.max_steps=2.5", "wrote 2.5, expected a whole number."),
            ("trainer.max_steps=true", "wrote true, expected a whole number."),
            ("dataset.limit=many", "wrote 'many', expected a whole number."),
            ("seed=x", "wrote 'x', expected a whole number."),
            ("seed=true", "wrote true, expected a whole number."),
            ("seed=null", "wrote null, expected a whole number."),
            ("dataset.validation_size=abc", "wrote 'abc', expected a number or a whole number."),
            ("dataset.data_files={train:1}", "wrote 1, expected text or a list, such as [a, b]."),
            ("dataset.columns=[a]", "expected a mapping of keys."),
            ("model.trust_remote_code=maybe", "expected true or false."),
            ("tracking.report_to=wandb", "expected a list, such as [a, b].\n    Write tracking.report_to=[wandb]"),
            (
                "dataset.revision=1234567",
                """wrote 1234567, expected text.\n    Write it in quotes: 'dataset.revision="1234567"'""",
            ),
            ("dataset.limit=0", "wrote 0, expected more than 0."),
            ("dataset.max_dropped=2", "wrote 2, expected less than 1."),
            ("dataset.validation_size=-1", "wrote -1, expected more than 0."),
            ("evaluation.generation.rows=-1", "wrote -1, expected 0 or more or one of: all."),
            ("trainer.lr_scheduler_type=cosin", "Did you mean cosine?"),
            ("precision.compute=bfloat16", "Did you mean bf16?"),
            ("adapter.r=big", "wrote 'big', expected a whole number."),
            ("adapter.target_modules=3", "wrote 3, expected a list or null or text."),
            ("adapter.bias=nnone", "Did you mean none?"),
            ("publish.to=hubb", "expected one of: none, hub.\n    Did you mean hub?"),
            ("adapter.method=lorra", "lorra is not a method of the installed library.\n    Did you mean lora?"),
        ],
    )
    def test_one_problem_says_what_was_written_and_expected(self, told, written, expected):
        message = told("adapter=lora", written)
        assert message.startswith("1 problem in the config")
        assert expected in message

    def test_choices_are_listed(self, told):
        assert "expected one of: linear, cosine, " in told("trainer.lr_scheduler_type=cosin")

    def test_a_bare_no_in_a_file(self, told, write):
        assert 'write "no" in quotes' in told(write("trainer: {save_strategy: no}"))

    def test_a_quoted_number_in_a_file(self, told, write):
        assert "Write it without quotes." in told(write('trainer: {learning_rate: "0.001"}'))

    def test_a_group_with_nothing_below(self, told, write):
        assert "trainer (mine.yaml:1:1): wrote null" in told(write("trainer:"))

    @pytest.mark.parametrize(
        "written", ["dataset.validation_size=0.2", "dataset.validation_size=20", "dataset.max_dropped=0"]
    )
    def test_a_number_may_be_whole_or_a_share(self, config, written):
        config(written)


class TestMissing:
    def test_both_paths_are_reported_together(self, told):
        message = told(paths=())
        assert message.startswith("2 problems")
        assert "model.path (not set): must be set." in message
        assert "dataset.path (not set): must be set." in message

    def test_an_empty_path_is_none(self, told):
        assert "model.path (command line): must be set." in told("model.path=")


class TestAllAtOnce:
    def test_errors_of_every_kind_come_together(self, told, write):
        recipe = write("""
            defaults:
              - override /precision: bf61
            seed: x
            trainer: {warmup_ratio: 0.1}
        """)
        message = told(recipe, "adapter=lroa", "name={", "learning_rate=1", "dataset.limit=many", "name=${a}")
        assert message.startswith("8 problems")

    @pytest.mark.parametrize("group", ["task", "adapter", "trainer", "quantization"])
    def test_a_group_taken_out_is_one_problem_of_its_own(self, told, group):
        assert f"{group} (command line): " in told(f"~{group}")

    def test_nothing_is_said_of_a_group_whose_choice_is_wrong(self, told):
        assert told("adapter=lroa", "adapter.r=8").startswith("1 problem ")
        assert told("task=sfft", "task.problem_type=auto", "trainer.completion_only_loss=1").startswith("1 problem ")

    def test_a_key_is_reported_once(self, told):
        assert told("name=${oc.env:HOME}").startswith("1 problem ")
        assert told("dataset.path=${a.b}").startswith("1 problem ")


class TestReplaced:
    @pytest.mark.parametrize(
        ("written", "instead"),
        [
            ("warmup_ratio=0.1", "trainer.warmup_steps; below 1 it is a share of all steps"),
            ("evaluation_strategy=steps", "trainer.eval_strategy"),
            ("gradient_checkpointing=true", "trainer.activation_checkpointing"),
            ("overwrite_output_dir=true", "nothing: every run has a folder of its own"),
            ("max_seq_length=9", "tokenizer.max_length"),
            ("load_in_4bit=true", "quantization=bnb_4bit"),
            ("lr=1", "trainer.learning_rate"),
        ],
    )
    @pytest.mark.parametrize("group", ["trainer.", ""])
    def test_an_old_name_says_the_new_one(self, told, group, written, instead):
        message = told(group + written)
        assert f"{group}{written.partition('=')[0]} (command line)" in message
        assert f"Write {instead}." in message

    def test_what_is_written_instead_exists(self):
        accepted = options.of("trl.SFTConfig")
        for instead in places.RENAMED.values():
            if instead.startswith("trainer."):
                assert instead.split(";")[0].split(",")[0].split("=")[0].removeprefix("trainer.") in accepted


class TestDecidedElsewhere:
    @pytest.mark.parametrize(
        ("written", "instead"),
        [
            ("trainer.bf16=true", "Write precision=bf16."),
            ("trainer.output_dir=x", "Write output_dir, at the top."),
            ("trainer.seed=1", "Write seed, at the top."),
            ("trainer.use_cpu=true", "Write the environment variable CUDA_VISIBLE_DEVICES"),
            ("trainer.max_length=9", "tokenizer.max_length"),
            ("adapter.task_type=CAUSAL_LM", "Write task=NAME."),
            ("adapter.inference_mode=true", "Write nothing: an adapter is trained"),
            ("bf16=true", "Write precision=bf16."),
        ],
    )
    def test_it_says_by_what(self, told, written, instead):
        assert instead in told("adapter=lora", written)

    def test_a_token_belongs_into_the_environment(self, told):
        message = told("trainer.hub_token=hf_secret")
        assert "HF_TOKEN" in message
        assert "secret" not in message

    @pytest.mark.parametrize("name", list(tasks()))
    def test_what_a_task_always_sets_cannot_be_set_by_a_user(self, name):
        task = tasks()[name]
        assert task.trainer_options.keys() <= task.owned.keys() | places.OWNED["trainer"].keys()


class TestMethods:
    def test_an_option_that_nothing_uses(self, told):
        message = told("adapter.r=8")
        assert "adapter.r (command line): is set, and adapter=full uses nothing of it." in message

    def test_a_misspelt_option_of_peft(self, told):
        assert "Did you mean adapter.r?" in told("adapter=lora", "adapter.rr=8")

    @pytest.mark.parametrize("name", [*options.methods("adapter"), *recipes.groups()["adapter"]])
    def test_every_method_of_peft_composes(self, name):
        assert compose([f"adapter={name}"]).values["adapter"]["method"] in {*options.methods("adapter"), "full"}

    @pytest.mark.parametrize("name", [*options.methods("quantization"), *recipes.groups()["quantization"]])
    def test_every_quantizer_of_transformers_composes(self, name):
        found = compose([f"quantization={name}"]).values["quantization"]["method"]
        assert found in {*options.methods("quantization"), "none"}

    @pytest.mark.parametrize(
        "words", [("adapter=adalora",), ("quantization=gptq", "adapter=lora"), ("adapter=qlora",)]
    )
    def test_a_method_is_accepted(self, config, words):
        config(*words)


class TestCode:
    @pytest.mark.parametrize(
        "key", ["_target_", "dataset._target_", "trainer._target_", "model.config._target_", "adapter._target_"]
    )
    def test_nothing_names_code(self, told, key):
        assert f"{key} (command line): there is no such key; nothing in a config names code to run." in told(
            f"{key}=os.system"
        )

    def test_not_even_below_a_list(self, told, write):
        assert "_target_" in told(write("model: {config: {a: [{_target_: os.system}]}}"))


class TestShippedFiles:
    """Every key of every shipped file misspelt, every value of a wrong type; `scripts/mutate` tries every letter."""

    @pytest.mark.parametrize("choice", mutations.files())
    def test_each_key(self, choice):
        file = mutations.read(choice)
        for number, key in enumerate(key for key in file.keys if not key.startswith(mutations.FREE)):
            slips = list(mutations.few(key.rpartition(".")[2]))
            wrong = slips[number % len(slips)]  # of each kind in turn
            found = mutations.misspelt(file, key, wrong)
            assert mutations.is_right(found, key, wrong) or mutations.is_ambiguous(found, key, wrong), found

    @pytest.mark.parametrize("choice", mutations.files())
    def test_each_value(self, choice):
        file = mutations.read(choice)
        for key in file.keys:
            for value, found in mutations.mistyped(file, key):
                assert found, f"{key}={value!r}"

    @pytest.mark.parametrize("name", recipes.names())
    def test_each_choice_from_a_group(self, name):
        for group, option in inheritance.read(name).choices.items():
            for wrong in mutations.few(group):
                assert f"Did you mean {group}={option}?" in str(groups.refusal(wrong, option, "here"))
            wrong = next(mutations.few(option))
            assert mutations.is_right_choice(group, option, wrong)


@pytest.mark.parametrize("word", ["pissa", "pissa_niter_16", "true", "eva"])
def test_an_option_that_takes_words_or_a_switch_takes_both(config, word):
    config("adapter=lora", f"adapter.init_lora_weights={word}")
