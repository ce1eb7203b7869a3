"""What models write: within the positions they have."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny import chat_tokenizer
from tiny_runs import bart
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel

from finetune.models.generate import answers, drop_idle, written

LONG = {"max_new_tokens": 500}


def test_a_model_of_learned_positions_writes_no_further_than_they_reach():
    words = chat_tokenizer()
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": words.pad_token_id}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **sizes, **ids)).eval()
    found = list(answers(model, words, ["a", "a b c"], LONG))
    assert all(answer.capped for answer in found)


def test_an_encoder_decoder_writes_no_further_than_its_positions_reach():
    model = AutoModelForSeq2SeqLM.from_pretrained(bart()).eval()
    model.generation_config.eos_token_id = None
    (found,) = written(model, AutoTokenizer.from_pretrained(bart()), ["cat"], LONG)
    assert found.capped


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"temperature": 0.9, "top_p": 0.6}, {}),
        ({"length_penalty": 2.0}, {}),
        ({"do_sample": True, "top_p": 0.6}, {"do_sample": True, "top_p": 0.6}),
    ],
)
def test_options_of_sampling_that_nothing_reads_do_not_keep_a_model_from_being_saved(given, left, tmp_path):
    """transformers loads such a config, and refuses to save it once anything in it was changed."""
    model = SimpleNamespace(generation_config=GenerationConfig(eos_token_id=2, **given))
    drop_idle(model)
    model.generation_config.eos_token_id = [2, 3]
    model.generation_config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert {name: saved[name] for name in ("do_sample", "temperature", "top_p") if saved.get(name)} == left
