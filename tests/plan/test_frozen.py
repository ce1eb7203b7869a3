"""The frozen plan: what is read is what was written, or nothing is read."""

import json

import pytest
from tiny_runs import classify, config, copy_of, own_caches, trained

from finetune.config.check import dump, load_config
from finetune.errors import UserError
from finetune.plan import frozen
from finetune.plan.plan import as_json, from_json
from finetune.plan.planned import planned


@pytest.fixture(scope="module")
def made():
    with own_caches():
        return planned(config(classify("adapter=lora", "trainer.optim=adamw_torch")))[0]


def test_a_plan_comes_back_as_it_was(made):
    assert from_json(json.loads(json.dumps(as_json(made)))) == made


@pytest.mark.parametrize("path", [("config", "seed"), ("batches", "total_steps"), ("arguments", "learning_rate")])
def test_a_changed_value_is_refused(path, tmp_path):
    folder = copy_of(trained("classify_lora"), tmp_path)
    values = folder.read("plan.json")
    values[path[0]][path[1]] = 7
    folder.write("plan.json", values)
    with pytest.raises(UserError, match="was changed after the run was planned"):
        frozen.read(folder)


def test_the_order_of_keys_does_not_matter(tmp_path):
    folder = copy_of(trained("classify_lora"), tmp_path)
    folder.write("plan.json", dict(reversed(folder.read("plan.json").items())))
    assert frozen.read(folder).config.name == "classify_lora"


def test_the_kept_config_is_a_recipe_that_plans_the_same_run():
    folder = trained("classify_lora")
    again, _ = load_config([f"recipe={folder / 'config.yaml'}"])
    assert dump(again) == dump(frozen.read(folder).config)
