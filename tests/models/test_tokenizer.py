"""How long a row may be, and what pads it."""

import os
import signal

import pytest
import torch
from tiny import bert_tokenizer, chat_tokenizer
from transformers import BertConfig, BloomConfig, LlamaConfig, RobertaConfig, RobertaForSequenceClassification

from finetune.config.schema import TokenizerConfig
from finetune.errors import UserError
from finetune.models import tokenizer

UNLIMITED = 10**30


def limit(config, words=None, **options):
    return tokenizer.max_length(TokenizerConfig(**options), words or bert_tokenizer(UNLIMITED), config)


def test_the_shorter_of_both_limits_is_taken():
    assert limit(BertConfig(max_position_embeddings=64), bert_tokenizer(32)) == 32
    assert limit(BertConfig(max_position_embeddings=16), bert_tokenizer(32)) == 16
    assert limit(BertConfig(max_position_embeddings=16)) == 16


def test_the_written_length_is_taken_up_to_the_models_positions():
    assert limit(LlamaConfig(max_position_embeddings=64), bert_tokenizer(32), max_length=64) == 64
    with pytest.raises(UserError, match=r"tokenizer\.max_length=65 is more than the model's 64 positions"):
        limit(LlamaConfig(max_position_embeddings=64), max_length=65)


def test_a_length_that_nothing_states_must_be_written():
    with pytest.raises(UserError, match=r"tokenizer\.max_length must be set"):
        limit(BloomConfig())


def test_positions_that_begin_behind_the_pad_token_are_all_that_the_model_takes():
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = RobertaConfig(vocab_size=20, max_position_embeddings=18, pad_token_id=1, **sizes)
    longest = limit(config)
    model = RobertaForSequenceClassification(config).eval()
    with torch.no_grad():
        assert model(torch.full((1, longest), 5)).logits.shape == (1, 2)
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, longest + 1), 5))


@pytest.mark.parametrize(
    ("reserved", "expected"), [("<|finetune_right_pad_id|>", "<|finetune_right_pad_id|>"), (None, "<pad>")]
)
def test_a_reserved_token_pads_where_none_is_set(reserved, expected):
    words = chat_tokenizer(pad=None)
    if reserved:
        words.add_special_tokens({"extra_special_tokens": [reserved]})
    tokenizer._pad(words, None)
    assert words.pad_token == expected


def test_a_pad_token_that_is_set_stays_unless_another_is_written():
    words = chat_tokenizer(pad="<|im_end|>")
    tokenizer._pad(words, None)
    assert words.pad_token == "<|im_end|>"
    tokenizer._pad(words, "<pad>")
    assert words.pad_token == "<pad>"


@pytest.mark.parametrize("setting", ["true", "", None])
def test_a_forked_child_tokenizes_whatever_threads_its_parent_had(setting, monkeypatch):
    if setting is None:
        monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    else:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", setting)
    words, texts = bert_tokenizer(), ["a b"] * 64
    expected = words(texts)["input_ids"]
    if (child := os.fork()) == 0:
        signal.alarm(10)
        os._exit(words(texts)["input_ids"] != expected)
    assert os.waitpid(child, 0)[1] == 0
