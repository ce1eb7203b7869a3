"""A place in a text is proved among its tokens exactly where tokenizing all that is before it would prove it."""

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from finetune.data.cuts import Cuts, Tokenized

CORPUS = ["user assistant hello how are you hallo welt", "one two\n\n\nthree  four", "[INST] say [/INST] so"] * 8
BITS = [
    "<|a|>",
    "<|b|>",
    "<sep>",
    "[INST]",
    "hello",
    " ",
    "  ",
    "\n",
    "\n\n",
    "assistant\n",
    "hallo welt",
    "é",
    "猫",
    "<|",
    "Word",
]


def byte_level(words):
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()


def byte_level_with_a_space_before(words):
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def metaspace_first(words):
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")


def metaspace_always(words):
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")


def llama_before_its_rewrite(words):
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def lines_apart(words):
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(use_regex=False),
        ]
    )


def composed_and_lowered(words):
    words.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.Whitespace()


KINDS = (
    byte_level, byte_level_with_a_space_before, metaspace_first, metaspace_always, llama_before_its_rewrite,
    lines_apart, composed_and_lowered,
)  # fmt: skip
ADDED = {
    "plain": {},
    "taking spaces before": {"lstrip": True},
    "taking spaces after": {"rstrip": True},
    "whole words only": {"single_word": True},
    "found after normalizing": {"normalized": True, "special": False},
}

TOKENS = ("<|a|>", "<|b|>", "<sep>", "[INST]", "\n\n")
OVERLAPPING = ("<|a", "<|a|>", "|>x", "x\n", "\n\n", "\n\n\n", "hello", "loh")


def tokenizer(kind, added, tokens=TOKENS):
    words = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    kind(words)
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    words.train_from_iterator(CORPUS, trainer)
    options = {"special": True, "normalized": False, **added}
    words.add_tokens([AddedToken(text, **options) for text in tokens])
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>")


def texts(count, bits=BITS):
    numbers = random.Random(23)
    return ["".join(numbers.choices(bits, k=numbers.randrange(1, 14))) for _ in range(count)]


@pytest.mark.parametrize("added", ADDED.values(), ids=ADDED)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_place_of_a_text_is_proved_as_by_its_whole_prefix(kind, added):
    words = tokenizer(kind, added)
    cuts = Cuts(words)
    for text in texts(60):
        (ids,) = cuts.encode([text])
        assert list(ids) == words(text, add_special_tokens=False)["input_ids"]
        check_every_place(cuts, text)


@pytest.mark.parametrize("added", ["plain", "found after normalizing"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_tokens_that_overlap_prove_no_more_than_the_whole_prefix(kind, added):
    cuts = Cuts(tokenizer(kind, ADDED[added], OVERLAPPING))
    for text in texts(150, (*OVERLAPPING, "a", "x", " ", "\n", "<|", "|>", "hel", "lo", "assistant\n")):
        check_every_place(cuts, text)


def test_what_a_token_reaches_into_is_not_taken_for_the_token_that_was_seen_there_before():
    """`x\\n` ends within what would be `\\n\\n`."""
    cuts = Cuts(tokenizer(byte_level_with_a_space_before, {}, ("x\n", "\n\n", "\n\n\n")))
    check_every_place(cuts, "a\n\n")
    check_every_place(cuts, "x\n\n\nloha")


def check_every_place(cuts, text):
    (ids,) = cuts.encode([text])
    row = Tokenized(text, ids)
    for end, prefix in enumerate(cuts.encode([text[:end] for end in range(len(text) + 1)])):
        assert cuts.at(row, end) == (len(prefix) if ids[: len(prefix)] == prefix else None), (text, end)


def test_what_is_short_is_remembered_and_what_is_long_is_not():
    cuts = Cuts(tokenizer(byte_level, {}))
    text = "<|a|>assistant\n" + "hello " * 100
    (ids,) = cuts.encode([text])
    row = Tokenized(text, ids)
    cuts.learn([(row, 15), (row, len(text))])
    assert set(cuts.known) == {"<|a|>assistant\n", text}
    cuts.forget()
    assert set(cuts.known) == {"<|a|>assistant\n"}


def test_cuts_of_a_tokenizer_leave_no_trace_of_how_it_cut_before():
    words = tokenizer(byte_level, {})
    words(["hello how are you", "x"], padding=True, truncation=True, max_length=2)
    (ids,) = Cuts(words).encode(["hello how are you"])
    assert list(ids) == words("hello how are you", add_special_tokens=False).input_ids
