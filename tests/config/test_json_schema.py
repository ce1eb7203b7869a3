"""The JSON Schema of recipes and groups: what ships is valid, what is misspelt is not, and choices narrow the rest."""

import json
from functools import cache

import pytest
from jsonschema import Draft7Validator

from finetune.config import groups, json_schema, origin, recipes
from finetune.config.check import dump, load_config
from finetune.config.task import tasks
from finetune.errors import UserError

LORA = {"defaults": [{"override /adapter": "lora"}]}
CLASSIFY = {"defaults": [{"override /task": "sequence_classification"}]}


@cache
def validator(name):
    return Draft7Validator(json_schema.of(name))


def is_valid(values, name="recipe"):
    return validator(name).is_valid(values)


def shipped():
    yield from (("recipe", recipes.find(name)) for name in recipes.names())
    for group, names in recipes.groups().items():
        yield from ((group, recipes.CONF / group / f"{name}.yaml") for name in names)


SHIPPED = list(shipped())


class TestShipped:
    @pytest.mark.parametrize("name", json_schema.names())
    def test_each_is_a_schema(self, name):
        Draft7Validator.check_schema(json_schema.of(name))

    @pytest.mark.parametrize(("name", "file"), SHIPPED, ids=lambda value: str(getattr(value, "stem", value)))
    def test_every_shipped_file_is_valid(self, name, file):
        assert [error.message for error in validator(name).iter_errors(origin.values(file))] == []

    @pytest.mark.parametrize(("name", "file"), SHIPPED, ids=lambda value: str(getattr(value, "stem", value)))
    def test_no_shipped_file_is_valid_with_a_letter_of_a_key_changed(self, name, file):
        values = origin.values(file)
        for wrong in misspelt(values):
            assert not is_valid(wrong, name), wrong

    @pytest.mark.parametrize("name", recipes.names())
    def test_the_config_of_a_run_is_a_valid_recipe(self, name):
        assert is_valid(json.loads(json.dumps(dump(load_config([f"recipe={name}"])[0]))))


def misspelt(node):
    """Every mapping in turn with the last letter of one key changed; names of the user's or the architecture's are left alone."""
    for key, value in node.items():
        wrong = f"{key}q" if len(key) < 2 else f"{key[:-1]}{'x' if key[-1] != 'x' else 'y'}"
        yield {wrong if name == key else name: each for name, each in node.items()}
        if isinstance(value, dict) and key not in ("data_files", "config"):
            yield from ({**node, key: below} for below in misspelt(value))


class TestNarrowed:
    @pytest.mark.parametrize(
        "values",
        [
            {"trainer": {"learning_rate": 1.0e-4}},
            {**CLASSIFY, "task": {"problem_type": "regression"}, "dataset": {"columns": {"label": "x"}}},
            {"task": {"mask": "all"}, "dataset": {"columns": {"messages": "x"}}},
            {**LORA, "adapter": {"r": 4}},
            {"adapter": {"method": "lora", "r": 4}},
            {"defaults": [{"override /adapter": "dora"}], "adapter": {"r": 4}},
            {"defaults": [{"override /adapter": "qlora"}], "quantization": {"bnb_4bit_quant_type": "fp4"}},
            {"defaults": ["quickstart"], "adapter": {"r": 4}, "task": {"problem_type": "auto"}},
            {"defaults": ["sft/smollm2_gsm8k_qlora"], "quantization": {"bnb_4bit_quant_type": "fp4"}},
            {"defaults": ["./mine.yaml"], "adapter": {"anything": 4}},
            {"defaults": ["./mine.yaml", {"override /adapter": "lora"}], "adapter": {"r": 4}},
            {"trainer": {"learning_rate": "${seed}", "max_steps": "${seed}"}, "seed": "${trainer.max_steps}"},
            {"defaults": [{"override /adapter": "adalora"}], "adapter": {"init_r": 4}},
        ],
    )
    def test_what_a_choice_takes_is_valid(self, values):
        assert is_valid(values)

    @pytest.mark.parametrize(
        "values",
        [
            {**CLASSIFY, "task": {"mask": "all"}},
            {**CLASSIFY, "dataset": {"columns": {"messages": "x"}}},
            {"task": {"problem_type": "auto"}},
            {"adapter": {"r": 4}},
            {"quantization": {"load_in_4bit": True}},
            {**LORA, "adapter": {"init_r": 4}},
            {**LORA, "adapter": {"r": "big"}},
            {"defaults": ["quickstart"], "task": {"mask": "all"}},
            {"defaults": ["quickstart", {"override /adapter": "full"}], "adapter": {"r": 4}},
            {"defaults": ["./mine.yaml", {"override /adapter": "lora"}], "adapter": {"rr": 4}},
            {"defaults": [{"override /adaptr": "lora"}]},
            {"defaults": [{"override /adapter": "lroa"}]},
            {"defaults": ["quikstart"]},
            {"seed": "x"},
            {"dataset": {"limit": 0}},
            {"_target_": "os.system"},
            {"hydra": {}},
        ],
    )
    def test_what_it_does_not_take_is_not(self, values):
        assert not is_valid(values)

    @pytest.mark.parametrize("name", ["warmup_ratio", "output_dir", "bf16", "max_length"])
    def test_an_option_that_is_decided_elsewhere_says_where_and_is_not_offered(self, name):
        assert not is_valid({"trainer": {name: 1}})
        option = json_schema.of("recipe")["definitions"]["task.sft"]["properties"]["trainer"]["properties"][name]
        assert option["deprecationMessage"].startswith("Write ")
        assert option["doNotSuggest"]


class TestDescriptions:
    def test_they_are_the_text_below_a_field(self):
        assert (
            json_schema.of("dataset")["properties"]["limit"]["description"]
            == "At most this many rows of each split, the first ones."
        )

    @pytest.mark.parametrize("task", list(tasks()))
    def test_a_task_s_own_options_are_described(self, task):
        assert json_schema.of("task")["properties"]["overlong"]["description"].startswith("What becomes of a row")

    def test_the_help_of_a_library_is_its_own(self):
        assert "learning rate" in json_schema.of("trainer")["properties"]["learning_rate"]["description"]


class TestCommand:
    def test_it_prints_the_schema_of_recipes(self, run):
        assert json.loads(run("schema"))["$schema"] == json_schema.DRAFT

    def test_it_prints_that_of_a_group(self, run):
        assert "path" in json.loads(run("schema", "dataset"))["properties"]

    def test_it_writes_them_all(self, run, here):
        run("schema", "--output", "schemas")
        found = {file.stem for file in (here / "schemas").iterdir()}
        assert found == {"recipe", *groups.names()}

    def test_it_writes_one(self, run, here):
        assert run("schema", "adapter", "--output", "schemas") == "schemas/adapter.json\n"

    def test_a_misspelt_group(self):
        with pytest.raises(UserError, match="Did you mean adapter"):
            json_schema.of("adaptr")

    def test_a_folder_that_cannot_be_made(self, here):
        (here / "file").write_text("")
        with pytest.raises(UserError, match="cannot be written"):
            json_schema.write(["dataset"], here / "file")

    @pytest.fixture
    def run(self, here, capsys):
        from finetune import cli

        def run(*words):
            with pytest.raises(SystemExit) as end:
                cli.main(words)
            assert end.value.code == 0
            return capsys.readouterr().out

        return run
