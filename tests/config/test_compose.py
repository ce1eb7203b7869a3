"""What is composed: precedence, inheritance, origins, and what cannot be read."""

import pytest

from finetune.config.check import check, dump, load_config, read
from finetune.config.compose import compose
from finetune.config.inheritance import read as lineage


class TestPrecedence:
    def test_a_group_file_beats_the_library(self, config):
        assert config().trainer["lr_scheduler_type"] == "cosine"

    def test_a_recipe_beats_a_group_file(self, config, write):
        recipe = write("trainer: {lr_scheduler_type: linear}")
        assert config(recipe).trainer["lr_scheduler_type"] == "linear"

    def test_the_command_line_beats_a_recipe(self, config, write):
        recipe = write("trainer: {lr_scheduler_type: linear}")
        found = config(recipe, "trainer.lr_scheduler_type=constant")
        assert found.trainer["lr_scheduler_type"] == "constant"

    @pytest.mark.parametrize("recipe_first", [True, False])
    def test_the_order_of_the_command_line_does_not_matter(self, config, write, recipe_first):
        words = [write("seed: 1"), "seed=2"]
        assert config(*(words if recipe_first else words[::-1])).seed == 2

    def test_a_group_chosen_on_the_command_line_beats_the_recipe_s_choice(self, config, write):
        recipe = write("defaults: [override /adapter: lora]")
        assert config(recipe).adapter["method"] == "lora"
        assert config(recipe, "adapter=prefix").adapter["method"] == "prefix_tuning"

    def test_values_of_a_recipe_are_laid_over_the_group_chosen_on_the_command_line(self, config, write):
        recipe = write("adapter: {r: 4}")
        assert config(recipe, "adapter=lora").adapter["r"] == 4

    def test_a_plus_before_a_key_changes_nothing(self, config):
        assert config("+seed=3", "++name=x", "+adapter=lora") == config("seed=3", "name=x", "adapter=lora")

    def test_a_key_can_be_taken_out(self, config):
        assert "warmup_steps" not in config("~trainer.warmup_steps").trainer


class TestInheritance:
    def test_a_recipe_inherits_a_shipped_one(self, config, write):
        recipe = write("defaults: [quickstart]\ntrainer: {max_steps: 3}")
        found = load_config([recipe])[0]
        assert found.tokenizer.max_length == 48
        assert found.trainer["max_steps"] == 3

    def test_a_path_leads_from_the_file_that_inherits(self, config, write):
        write("seed: 7", "bases/far/base.yaml")
        write("defaults: [far/base.yaml]", "bases/middle.yaml")
        assert config(write("defaults: [bases/middle.yaml]")).seed == 7

    def test_an_absolute_path_is_taken_as_it_is(self, config, write, here):
        write("seed: 7", "base.yaml")
        assert config(write(f"defaults: ['{here}/base.yaml']", "far/mine.yaml")).seed == 7

    def test_an_heir_wins(self, config, write):
        write("seed: 1\nname: base", "base.yaml")
        found = config(write("defaults: [base.yaml]\nseed: 2"))
        assert (found.seed, found.name) == (2, "base")

    def test_an_heir_placed_first_by_self_loses(self, config, write):
        write("seed: 1", "base.yaml")
        assert config(write("defaults: [_self_, base.yaml]\nseed: 2")).seed == 1

    def test_the_later_of_two_parents_wins(self, config, write):
        write("seed: 1\nname: a", "a.yaml")
        write("seed: 2", "b.yaml")
        found = config(write("defaults: [a.yaml, b.yaml]"))
        assert (found.seed, found.name) == (2, "a")

    def test_an_heir_s_choice_from_a_group_wins_wherever_it_is_listed(self, config, write):
        write("defaults: [override /adapter: lora]", "base.yaml")
        heir = write("defaults:\n  - override /adapter: dora\n  - base.yaml")
        assert config(heir).adapter["use_dora"] is True

    def test_a_shared_ancestor_is_laid_down_once(self, write):
        write("seed: 1", "old.yaml")
        write("defaults: [old.yaml]\nseed: 2", "a.yaml")
        write("defaults: [old.yaml]", "b.yaml")
        write("defaults: [a.yaml, b.yaml]")
        layers = [file.name for file, _ in lineage("./mine.yaml").layers]
        assert layers == ["old.yaml", "a.yaml", "b.yaml", "mine.yaml"]

    def test_a_circle_is_shown(self, told, write):
        write("defaults: [b.yaml]", "a.yaml")
        write("defaults: [a.yaml]", "b.yaml")
        assert "a.yaml inherits b.yaml inherits a.yaml" in told("recipe=./a.yaml")

    def test_a_recipe_that_inherits_itself_is_a_circle(self, told, write):
        assert "mine.yaml inherits mine.yaml" in told(write("defaults: [mine.yaml]"))

    def test_a_missing_parent_is_reported_where_it_is_named(self, told, write):
        assert "mine.yaml:2:5: recipe=gone.yaml: there is no such file" in told(write("defaults:\n  - gone.yaml"))

    def test_a_file_beside_it_needs_its_ending(self, told, write):
        write("seed: 1", "other.yaml")
        assert "A file is written with its ending: other.yaml" in told(write("defaults: [other]"))

    def test_a_config_that_was_dumped_is_a_recipe(self, here, write):
        import yaml

        arguments = ["recipe=sft/qwen3_ultrachat_qlora", "seed=3", "evaluation=generation"]
        first = load_config(arguments)[0]
        recipe = write(yaml.safe_dump(dump(first)), "runs/one/config.yaml")
        assert load_config([recipe])[0] == first


class TestDefaultsList:
    @pytest.mark.parametrize("entry", ["/adapter: lora", "adapter: lora", "override adapter: lora"])
    def test_only_one_form_chooses_from_a_group(self, told, write, entry):
        message = told(write(f"defaults:\n  - {entry}"))
        assert "mine.yaml:2" in message
        assert "Write `- override /adapter: lora`" in message

    def test_a_misspelt_group(self, told, write):
        message = told(write("defaults:\n  - override /adaptr: lora"))
        assert "adaptr (mine.yaml:2:5): is not a config group.\n    Did you mean adapter=lora?" in message

    def test_a_misspelt_option(self, told, write):
        message = told(write("defaults:\n  - override /adapter: lroa"))
        assert "adapter (mine.yaml:2:5): lroa is not an option of adapter.\n    Did you mean adapter=lora?" in message

    def test_a_group_chosen_twice_names_both_lines(self, told, write):
        message = told(write("defaults:\n  - override /adapter: lora\n  - override /adapter: dora"))
        assert "adapter (mine.yaml:3:5): is chosen a second time; the first is at mine.yaml:2:5" in message

    def test_it_is_a_list(self, told, write):
        assert "mine.yaml:1:1: defaults is a list" in told(write("defaults: quickstart"))

    def test_a_group_as_a_plain_key_says_how_it_is_chosen(self, told, write):
        assert "- override /adapter: lora" in told(write("adapter: lora"))
        assert "- override /task: sft" in told(write("task: sft"))

    def test_a_misspelt_defaults(self, told, write):
        assert "Did you mean defaults?" in told(write("defalts: [quickstart]"))


class TestOrigins:
    def of(self, *arguments):
        return compose([*arguments]).origins

    def test_a_value_of_a_group_file(self):
        assert self.of()["trainer.lr_scheduler_type"].startswith("conf/trainer/default.yaml:")

    def test_a_value_that_a_group_file_inherits(self):
        assert self.of("adapter=rslora")["adapter.r"].startswith("conf/adapter/lora.yaml:")
        assert self.of("adapter=rslora")["adapter.use_rslora"].startswith("conf/adapter/rslora.yaml:")

    def test_a_value_that_a_group_file_sets_in_another_group(self):
        assert self.of("adapter=qlora")["quantization.method"].startswith("conf/quantization/bnb_4bit.yaml:")

    def test_a_value_of_a_recipe(self, write):
        assert self.of(write("# a comment\ntrainer:\n  max_steps: 3"))["trainer.max_steps"] == "mine.yaml:3:3"

    def test_a_value_of_an_inherited_recipe(self, write):
        write("seed: 3", "base.yaml")
        assert self.of(write("defaults: [base.yaml]\nname: x"))["seed"] == "base.yaml:1:1"

    def test_a_value_of_the_command_line(self, write):
        assert self.of(write("seed: 3"), "seed=4")["seed"] == "command line"

    def test_values_of_a_mapping_on_the_command_line(self, write):
        recipe = write("dataset: {data_files: {train: a}}")
        assert self.of(recipe, "dataset.data_files={train:b}")["dataset.data_files.train"] == "command line"

    def test_a_method_of_a_library_is_from_where_it_was_chosen(self, write):
        assert self.of("adapter=adalora")["adapter.method"] == "command line"
        assert self.of(write("defaults:\n  - override /adapter: adalora"))["adapter.method"] == "mine.yaml:2:5"

    def test_a_group_file_with_a_package_of_its_own(self, monkeypatch, here):
        import shutil

        from finetune.config import recipes

        shutil.copytree(recipes.CONF, here / "conf")
        (here / "conf/precision/odd.yaml").write_text("# @package _global_\nseed: 5\nprecision: {compute: fp32}\n")
        monkeypatch.setattr(recipes, "CONF", here / "conf")
        recipes.groups.cache_clear()
        try:
            composed = compose(["precision=odd"])
        finally:
            recipes.groups.cache_clear()
        assert composed.values["seed"] == 5
        assert composed.origins["seed"] == "conf/precision/odd.yaml:2:1"
        assert composed.origins["precision.compute"] == "conf/precision/odd.yaml:3:13"


class TestFiles:
    def test_broken_yaml_is_located(self, told, write):
        message = told(write("seed: 1\ntrainer: {a: 1\nname: x"))
        assert "mine.yaml:3:5 is not valid YAML" in message
        assert "\n" not in message

    def test_a_key_written_twice_names_both_lines(self, told, write):
        message = told(write("trainer:\n  max_steps: 1\nseed: 2\ntrainer:\n  max_steps: 3"))
        assert "trainer (mine.yaml:4:1): is set a second time; the first is at mine.yaml:1:1." in message

    @pytest.mark.parametrize("text", ["- a\n- b", "hello", "12"])
    def test_what_is_not_a_mapping(self, told, write, text):
        assert "mine.yaml:1:1 is not a mapping" in told(write(text))

    def test_an_empty_file_changes_nothing(self, config, write):
        assert config(write("# nothing")).seed == config().seed

    def test_a_tag_makes_no_object(self, told, write):
        assert "mine.yaml:1:7 is refused: no tag is read" in told(write("seed: !!python/object:os.system {}"))

    def test_an_alias_of_itself(self, told, write):
        assert "an alias stands inside of what it names" in told(write("a: &x {b: *x}"))

    def test_bytes_that_are_not_text(self, told, here):
        (here / "mine.yaml").write_bytes(b"\xff\xfe\x00")
        assert "mine.yaml:1 is not valid YAML: it is not UTF-8 text" in told("recipe=./mine.yaml")

    def test_two_documents(self, told, write):
        assert "is not valid YAML" in told(write("seed: 1\n---\nseed: 2"))


class TestCommandLine:
    @pytest.mark.parametrize("value", ["{a}", "a{b", "a=b", "a(b", "~/a"])
    def test_an_unquoted_value_says_how_to_quote(self, told, value):
        assert f"""'name="{value}"'""" in told(f"name={value}")

    @pytest.mark.parametrize(
        "value",
        ["a,b", "{a}", "a=b", "a(b", "~/a", "it's", 'say "x"', r"a\b", r"\((.+)\)", "(\\", '(\\"'],
    )
    def test_what_it_says_works(self, config, told, value):
        import re
        import shlex

        try:
            found = config(f"dataset.revision={value}").dataset.revision
        except Exception:
            advice = re.search(r"quoted twice: (.*)", told(f"dataset.revision={value}"))[1]
            found = config(*shlex.split(advice)).dataset.revision
        assert found == value

    @pytest.mark.parametrize("value", ["1,2", "choice(1,2)", "range(1,3)"])
    def test_several_values_need_a_sweep(self, told, value):
        assert "names several values, which only finetune sweep takes" in told(f"trainer.learning_rate={value}")

    @pytest.mark.parametrize("word", ["foo", "=1", "/adapter=lora", "a b=1"])
    def test_what_is_no_override(self, told, word):
        assert "is not of the form key=value" in told(word)

    def test_a_recipe_without_the_word_recipe(self, told):
        assert "A recipe is chosen with recipe=quickstart" in told("quickstart")

    @pytest.mark.parametrize("word", ["hydra.run.dir=x", "hydra/launcher=submitit", "hydra=x"])
    def test_settings_of_hydra_are_read_by_nothing(self, told, word):
        assert "nothing reads it" in told(word)

    def test_a_package_is_refused(self, told):
        assert "Write adapter=…" in told("adapter@trainer=lora")

    def test_a_group_chosen_twice(self, told):
        assert "adapter (command line): is chosen twice: lora and dora." in told("adapter=lora", "adapter=dora")

    def test_two_recipes(self, told):
        assert "recipe= is given twice" in told("recipe=quickstart", "recipe=quickstart_chat")

    def test_an_empty_recipe(self, told):
        assert "recipe= names nothing" in told("recipe=")

    def test_a_group_as_a_mapping(self, told):
        assert "Write dataset.path=… dataset.name=…" in told("dataset={path:a,name:b}")

    @pytest.mark.parametrize("option", ["null", "5", "[lora,dora]", "../../etc/passwd"])
    def test_a_choice_that_is_no_option(self, told, option):
        assert "is not an option of adapter" in told(f"adapter={option}")

    @pytest.mark.parametrize("group", ["model", "dataset", "tokenizer"])
    def test_a_path_where_a_preset_is_chosen(self, told, group):
        assert f"A path is written {group}.path=org/thing" in told(f"{group}=org/thing")

    def test_taking_out_what_is_not_there(self, told):
        assert "~nothing (command line): there is no such key to take out." in told("~nothing")

    def test_taking_out_a_group(self, told):
        assert "adapter (command line): must be set." in told("~adapter")

    @pytest.mark.parametrize("text", ["hub_token={}", "hub_token={},x", "hub_token={}(", "run_name={}(", "x={}"])
    def test_a_token_is_never_repeated(self, told, text):
        secret = "hf_abcdefghijklmnop"
        assert secret not in told("trainer." + text.format(secret))


class TestInterpolation:
    def test_a_value_can_refer_to_another(self, config):
        assert config("seed=3", "output_dir=${dataset.path}", "seeds.data=${seed}").seeds.data == 3

    def test_a_reference_to_nothing_is_located(self, told, write):
        message = told(write("seed: 1\nname: ${foo.bar}"))
        assert "name (mine.yaml:2:1): ${foo.bar} cannot be resolved: there is no key foo.bar." in message

    def test_a_circle(self, told):
        assert "leads to itself" in told("name=${output_dir}", "output_dir=${name}")

    @pytest.mark.parametrize("text", ["${oc.env:HOME}", "a-${oc.env:HOME,x}", "${now:%Y}", "${hydra:job.name}"])
    def test_a_recipe_reads_no_environment(self, told, write, text):
        message = told(write(f"name: '{text}'"))
        assert "name (mine.yaml:1:1)" in message
        assert "a config reads no environment" in message

    def test_a_resolver_below_a_list_is_found(self, told):
        assert "trainer.fsdp_config.a" not in told("tracking.report_to=['${oc.env:HOME}']")

    def test_a_value_marked_as_missing(self, told, write):
        assert "name (mine.yaml:1:1): must be set." in told(write("name: ???"))


class TestFreezing:
    @pytest.mark.parametrize("recipe", ["quickstart", "sft/qwen3_ultrachat_qlora", "sft/smollm2_gsm8k_lora"])
    def test_what_is_dumped_is_read_back(self, recipe):
        config = check(compose([f"recipe={recipe}"]))
        assert read(dump(config)) == config

    def test_the_dump_is_plain(self, config):
        import json

        found = dump(config("adapter=qlora", "task=sequence_classification"))
        assert json.loads(json.dumps(found)) == found

    def test_a_run_is_named_after_its_recipe(self, config, write):
        assert config(write("seed: 1", "far/mine.yaml")).name == "mine"
        assert config().name == "sft"
        assert config(write("name: other")).name == "other"
