"""A faster encoder is trusted where it agrees, left alone where it does not, and never doubted in silence."""

import os

import pytest
from tiny import bert_tokenizer, chat_tokenizer

from finetune.errors import UserError
from finetune.models import fast_tokens
from finetune.models.fast_tokens import Held

TEXTS = ["hello welt", "<|im_start|>user\none two<|im_end|>\n", "", "déjà vu — 3.14 €", "\n\n\n x"] * 100


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(Held, "used_by", 0)


def own(texts):
    return [[len(text)] for text in texts]


def wrong(texts):
    return [[len(text) + 1] for text in texts]


@pytest.mark.parametrize("tokenizer", [chat_tokenizer, bert_tokenizer])
def test_ids_are_those_of_the_tokenizer(tokenizer):
    words = tokenizer()
    expected = words(TEXTS, add_special_tokens=False)["input_ids"]
    assert list(map(list, fast_tokens.encode(words)(TEXTS))) == expected


def test_what_is_installed_agrees_with_the_tokenizer():
    pytest.importorskip("fastokens")
    words = chat_tokenizer()
    encode = fast_tokens.encode(words)
    assert isinstance(encode, Held)
    assert encode.fast(TEXTS) == encode.own(TEXTS)


def test_an_encoder_that_differs_at_once_is_left_alone(caplog):
    encode = Held(wrong, own)
    assert encode(TEXTS) == own(TEXTS)
    assert "fastokens gives other ids" in caplog.text
    assert encode(TEXTS) == own(TEXTS)


def test_an_encoder_that_differs_later_refuses_what_was_made_before():
    encode = Held(own, own)
    encode(TEXTS)
    encode.fast = wrong
    with pytest.raises(UserError, match="pip uninstall fastokens"):
        encode(TEXTS)


def test_a_child_of_the_process_that_used_it_does_without():
    encode = Held(own, own)
    encode(TEXTS)
    encode.fast = wrong
    child = os.fork()
    if child == 0:
        os._exit(encode(TEXTS) != own(TEXTS))
    assert os.waitpid(child, 0)[1] == 0
