"""What no config may hold, and references that are followed without end."""

import pytest

from finetune.config import hydra_errors, written

SECRET = "hf_QwErTyUiOpAsDfGhJkLz"


class TestCredentials:
    @pytest.mark.parametrize(
        "key", ["trainer.hub_token", "model.config.api_key", "a.password", "x.aws_secret_access_key"]
    )
    def test_one_is_known_by_its_key(self, key):
        assert written.is_secret(key, "hunter2")

    @pytest.mark.parametrize(
        "key", ["tokenizer.pad_token", "model.config.eos_token", "evaluation.max_new_tokens", "a.tokenizer"]
    )
    def test_a_word_of_a_vocabulary_is_none(self, key):
        assert not written.is_secret(key, "<|end|>")

    @pytest.mark.parametrize(
        "value",
        ["hf-internal-testing/tiny-random-BertModel", "sk-learn/text-model", "HuggingFaceTB/SmolLM2-135M", "a@b.c",
         "https://example.com/a:b@c", "#### (.+)", "skywork/Skywork-13B", "AKIA", "hf_hub"],
    )  # fmt: skip
    def test_what_only_looks_a_little_like_one_is_none(self, value):
        assert not written.looks_secret(value)

    def test_it_is_refused_and_not_repeated(self, told, write):
        message = told(write(f"tracking: {{project: {SECRET}}}"))
        assert "tracking.project (mine.yaml:1:12): holds a credential" in message
        assert SECRET not in message

    def test_a_null_token_is_none(self, config):
        config("model.config.token=null")


class TestPaths:
    @pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".x", "a\\\\b"])
    def test_the_name_of_a_run_names_one_folder(self, told, name):
        assert "expected a plain name" in told(f"name='{name}'")

    @pytest.mark.parametrize("name", ["a b", "run-1.2", "it's", "ünï", "a,b"])
    def test_any_other_name_will_do(self, config, name):
        assert config(f'name="{name}"').name == name

    def test_a_path_that_climbs_out_of_a_package(self, told):
        assert "leads out of what it names" in told("tokenizer.path=package://a/../../b")

    def test_data_files_that_climb_out_of_the_data(self, told):
        assert "leads out of dataset.path" in told("dataset.data_files={train: [a, ../b]}")

    def test_an_inherited_recipe_from_elsewhere(self, told, write, here):
        write("seed: 1", "elsewhere/base.yaml")
        (here / "work").mkdir()
        import os

        os.chdir(here / "work")
        write("defaults: [../elsewhere/base.yaml]", "work/mine.yaml")
        assert "leads out of the folders a recipe is read from" in told("recipe=./mine.yaml")

    def test_a_recipe_behind_a_link_that_leads_out(self, told, here, write, tmp_path_factory):
        other = tmp_path_factory.mktemp("other") / "a.yaml"
        other.write_text("seed: 1")
        (here / "mine.yaml").symlink_to(other)
        assert "leads out" in told("recipe=./mine.yaml")
        (here / "heir.yaml").write_text("defaults: [mine.yaml]")
        assert "heir.yaml:1:12: " in told("recipe=./heir.yaml")

    def test_a_recipe_named_in_full_is_read_from_anywhere(self, config, tmp_path_factory):
        other = tmp_path_factory.mktemp("other") / "a.yaml"
        other.write_text("seed: 9")
        assert config(f"recipe={other}").seed == 9


class TestNumbers:
    @pytest.mark.parametrize("value", ["nan", "inf", "1e999", str(2**63)])
    def test_one_that_no_machine_holds(self, told, value):
        assert "model.config.a (command line): wrote " in told(f"model.config.a={value}")

    def test_the_largest_is_taken(self, config):
        assert config(f"model.config.a={2**63 - 1}").model.config["a"] == 2**63 - 1


class TestReferences:
    def test_a_reference_inside_of_a_text(self, config, write):
        assert (
            config(
                write("seed: 7\nname: run-${seed}-${model.trust_remote_code}"), "model.trust_remote_code=false"
            ).name
            == "run-7-false"
        )

    def test_a_reference_beside_it(self, config):
        assert config("dataset.name=${.path}").dataset.name == "some/data"

    def test_a_reference_to_a_list_and_to_an_item(self, config, write):
        found = config(write("model: {config: {a: [1, 2], b: '${model.config.a}', c: '${model.config.a[1]}'}}"))
        assert (found.model.config["b"], found.model.config["c"]) == ([1, 2], 2)

    def test_an_escaped_one_is_text(self, config, write):
        assert config(write("model: {config: {a: 'x \\${seed}'}}")).model.config["a"] == "x ${seed}"

    @pytest.mark.parametrize("text", ["${", "${a", "${${seed}}", "${a{b}"])
    def test_a_malformed_one(self, told, write, text):
        assert "name (mine.yaml:1:1): " in told(write(f"name: '{text}'"))

    def test_references_that_double_end(self, told, write):
        lines = "".join(f"b{n}: ${{b{n + 1}}}${{b{n + 1}}}\n" for n in range(40))
        assert "it refers to too much, over and over" in told(write(f"{lines}b40: x"))


class TestPrinted:
    def test_a_message_holds_no_credential_and_nothing_a_terminal_obeys(self):
        assert written.printable(f"a {SECRET} \x1b[2J\u202e\nb") == "a … \\x1b[2J\\u202e\nb"


class TestOfHydra:
    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("tracking.report_to.0=x", "has no such place.\n    Write the whole list: tracking.report_to=[…]"),
            ("tracking.report_to.x=1", "report_to.x (command line): tracking.report_to is a list, which has no keys."),
            ("tracking.report_to={a:1}", "tracking.report_to (command line): wrote a mapping, where a list stands."),
            ("dataset.columns={null:a}", "dataset.columns (command line): a mapping in it has a key that is no text."),
            ("name='${'", "name (command line): a reference in it is malformed."),
            ("~model.path=x", "~model.path (command line): the key has another value.\n    Write ~model.path"),
            ("~adapter=lora", "~adapter (command line): the group has another option"),
            ("~recipe", "recipe (command line): holds nothing of its own."),
        ],
    )  # fmt: skip
    def test_the_key_at_fault_is_named(self, told, word, message):
        assert message in told(word)

    def test_what_is_not_known_is_one_line(self):
        problem = hydra_errors.explain(ValueError("one\ntwo"), [])
        assert problem.what == "cannot be composed: one."
