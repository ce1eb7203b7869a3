"""A recipe in an editor: the real yaml-language-server with the schema of `finetune schema`."""

import language_server
import pytest

from finetune.config import json_schema

pytestmark = pytest.mark.skipif(
    language_server.command() is None,
    reason="yaml-language-server is not installed: npm install yaml-language-server, or see .ci/run",
)
HEAD = "defaults:\n  - override /task: sft\n  - override /adapter: lora\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editor")
    server = language_server.LanguageServer(folder, *json_schema.write(["recipe"], folder))
    yield server
    server.close()


def labels(server, name, line, character):
    return [item["label"] for item in server.at("completion", name, line, character)["items"]]


def test_a_good_recipe_is_not_marked(server):
    assert server.open("good.yaml", f"{HEAD}trainer: {{learning_rate: 1.0e-4, max_steps: '${{seed}}'}}\n") == []


def test_a_misspelt_key_is_marked_where_it_stands(server):
    found = server.open("typo.yaml", f"{HEAD}trainer:\n  max_steps: 3\n  learnig_rate: 1\n")
    assert found == [(5, "Property learnig_rate is not allowed.")]


def test_an_option_of_another_method_is_marked(server):
    found = server.open("method.yaml", f"{HEAD}adapter:\n  init_r: 3\n")
    assert found == [(4, "Property init_r is not allowed.")]


def test_an_old_name_says_the_new_one(server):
    found = server.open("old.yaml", f"{HEAD}trainer:\n  warmup_ratio: 0.1\n")
    assert (4, "Write trainer.warmup_steps; below 1 it is a share of all steps.") in found


def test_a_wrong_type_is_marked(server):
    assert server.open("type.yaml", f"{HEAD}seed: x\n")[0][0] == 3


def test_hover_is_the_library_s_help(server):
    server.open("hover.yaml", f"{HEAD}trainer:\n  learning_rate: 1.0e-4\n")
    assert "The initial learning rate" in server.at("hover", "hover.yaml", 4, 5)["contents"]["value"]


def test_hover_over_a_key_of_ours_is_its_docstring(server):
    server.open("ours.yaml", f"{HEAD}dataset:\n  limit: 3\n")
    assert "At most this many rows" in server.at("hover", "ours.yaml", 4, 3)["contents"]["value"]


def test_completion_offers_the_options_of_the_chosen_task(server):
    server.open("complete.yaml", f"{HEAD}trainer:\n  max_steps: 3\n  wei\n")
    found = labels(server, "complete.yaml", 5, 5)
    assert "weight_decay" in found
    assert not {"output_dir", "warmup_ratio", "packing"} & {*found}


def test_completion_offers_the_options_of_a_group(server):
    server.open("choose.yaml", "defaults:\n  - override /adapter: \n")
    assert {"lora", "qlora", "adalora"} <= {*labels(server, "choose.yaml", 1, 23)}


def test_completion_offers_the_options_of_the_chosen_method(server):
    server.open("lora.yaml", f"{HEAD}adapter:\n  r: 3\n  lo\n")
    found = labels(server, "lora.yaml", 5, 4)
    assert "lora_alpha" in found
    assert "init_r" not in found
