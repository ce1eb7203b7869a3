"""What is kept beside the recipes for want of the Hub: it can be used, and it is what the families have."""

import pytest
import yaml
from datasets import Dataset
from transformers import AutoConfig

from finetune.config.installed import tasks
from finetune.config.recipes import OFFLINE, names
from finetune.data.conversations import Conversation
from finetune.data.labels import Labeler, Policy
from finetune.data.templates import terminators
from finetune.rehearse import known
from finetune.rehearse.tokenizer import texts_of, train

TABLE = yaml.safe_load(OFFLINE.read_text(encoding="utf-8"))
TEXTS = ["Ann has 3 pens — déjà vu, 東京 🙂", "  two\n\n\nlines\t"]
CHAT = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": "An answer."}]
SAID = {
    "chatml": "<|im_start|>assistant\nAn answer.<|im_end|>",
    "cohere": "<|CHATBOT_TOKEN|>An answer.<|END_OF_TURN_TOKEN|>",
    "gemma": "<start_of_turn>model\nAn answer.<end_of_turn>",
    "gemma3": "<start_of_turn>model\nAn answer.<end_of_turn>",
    "gptoss": "<|start|>assistant<|channel|>final<|message|>An answer.<|return|>",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\nAn answer.<|eot_id|>",
    "mistral": "<s>[INST] A question? [/INST] An answer.</s>",
    "phi3": "<|assistant|>\nAn answer.<|end|>",
    "qwen2_5": "<|im_start|>assistant\nAn answer.<|im_end|>",
    "qwen3": "<|im_start|>assistant\n<think>\n\n</think>\n\nAn answer.<|im_end|>",
    "qwen3_instruct": "<|im_start|>assistant\nAn answer.<|im_end|>",
    "zephyr": "<|assistant|>\nAn answer.</s>",
}


def made(family, has_pairs=False):
    return train(known.family(family, "llama"), TEXTS, has_pairs)


def test_the_table_is_no_recipe():
    assert "offline" not in names()


@pytest.mark.parametrize("path", TABLE["models"])
def test_a_known_model_has_a_type_a_family_and_values_its_type_has(path):
    values = dict(known.model(path))
    config = AutoConfig.for_model(values.pop("model_type"))
    # A model of images or sounds has none.
    assert "family" not in values or known.family(values.pop("family"), "llama")
    assert values.keys() <= config.to_dict().keys()


@pytest.mark.parametrize("model_type", TABLE["types"])
def test_a_type_with_a_family_is_one_that_transformers_has(model_type):
    assert AutoConfig.for_model(model_type).model_type == model_type
    family = known.family(None, model_type)
    assert family.special or family.tokenizer


@pytest.mark.parametrize("family", [name for name, of in TABLE["families"].items() if "tokenizer" not in of])
def test_a_tokenizer_made_on_the_spot_gives_every_text_back(family):
    words = made(family)
    for text in TEXTS:
        assert words.decode(words(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize("family", SAID)
def test_a_template_says_what_its_family_says_and_ends_a_turn_with_a_special_token(family):
    words = made(family)
    assert SAID[family] in words.apply_chat_template(CHAT, tokenize=False)
    (row,) = Labeler(words, Policy())([Conversation(CHAT, trained=(1,))])
    trained = [token for token in row.labels if token != -100]
    assert trained[-1] in terminators(words)
    assert "An answer." in words.decode(trained)


def test_every_family_with_a_template_is_among_these():
    assert SAID.keys() == {name for name, values in TABLE["families"].items() if "template" in values}


def test_a_family_may_be_a_class_that_does_more_than_its_special_tokens_say():
    words = made("nllb")
    words.src_lang = "deu_Latn"
    assert words.convert_ids_to_tokens(words("Ann")["input_ids"])[0] == "deu_Latn"


@pytest.mark.parametrize("family", ["t5", "marian"])
def test_every_text_ends_as_its_family_ends_it(family):
    words = made(family)
    assert words("Ann")["input_ids"][-1] == words.eos_token_id


def test_a_pair_of_texts_is_told_apart():
    found = made("bert", has_pairs=True)("one", "two")
    assert found["token_type_ids"][0] == 0
    assert found["token_type_ids"][-1] == 1


COLUMNS = (
    {}, {"text": "body"}, {"messages": "chat"}, {"prompt": "q", "completion": "a"},
    {"instruction": "i", "input": "n", "output": "o"}, {"conversations": "c"}, {"label": "kind", "text": "t"},
    {"text": "one", "text_pair": "other"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "columns"), [(n, c) for n, t in tasks().items() for c in COLUMNS if {*c} <= {*t.roles}]
)
def test_rows_that_a_task_makes_up_are_rows_it_can_read(name, columns):
    task = tasks()[name]()
    facts = task.describe(Dataset.from_list(task.example(columns)), columns)
    assert facts["columns"].items() >= columns.items()


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_labels_are_of_the_kind_asked_for(problem):
    task = tasks()["sequence_classification"](problem_type=problem)
    assert task.describe(Dataset.from_list(task.example({})), {})["problem_type"] == problem


def test_texts_are_found_at_any_depth():
    assert list(texts_of([{"a": "b", "c": [{"d": "e"}, 1, None]}, ["f"]])) == ["b", "e", "f"]
