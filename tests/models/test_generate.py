"""What models write: within the positions they have."""

import torch
from tiny import chat_tokenizer
from tiny_runs import bart
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from finetune.models.generate import answers, written

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
