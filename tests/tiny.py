"""Tiny tokenizers, chat templates and models, made on the spot; folders are made once a session."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<unk>", "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
# Three newlines in a row, so that a newline of a text can merge with the template's.
CORPUS = ["user assistant system hello how are you hallo welt", "one two three four\n\n\nfive six seven eight"] * 8

PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
HEAD = "'<|im_start|>' + message['role'] + '\n'"
CHATML = "{% for message in messages %}{{ " + HEAD + " + message['content'] + '<|im_end|>\n' }}{% endfor %}" + PROMPT
MARKED = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ " + HEAD + " }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ " + HEAD + " + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}" + PROMPT
)
MARKED_WITHOUT_END = MARKED.replace(
    " + '<|im_end|>' }}{% endgeneration %}{{ '\n'", " }}{% endgeneration %}{{ '<|im_end|>\n'"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}" + CHATML
)
# What the assistant said earlier is cut to its first three letters, as models that think leave out old thoughts.
REWRITING = (
    "{% for message in messages %}{{ " + HEAD + " + (message['content'] if loop.last or message['role'] != 'assistant'"
    " else message['content'][:3]) + '<|im_end|>\n' }}{% endfor %}" + PROMPT
)
NEWLINE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
EOS = (
    "{% for message in messages %}{{ '### ' + message['role'] + '\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + CHATML
STRICT = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML
)

WORDS = ["good", "bad", "film", "very", "the", "is", "not", "it", "cat", "dog", "one", "two", "three", "four"]


@cache
def _bpe() -> str:
    """Byte-level, so that every text comes back as it was."""
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(CORPUS, trainer)
    return words.to_str()


def chat_tokenizer(
    template: str | None = CHATML, *, eos: str = "<|im_end|>", pad: str | None = "<pad>", bos: bool = False
) -> PreTrainedTokenizerFast:
    """A new tokenizer; with `bos` it begins every text with <s>, as Llama's does."""
    words = Tokenizer.from_str(_bpe())
    if bos:
        words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    special = {"unk_token": "<unk>", "pad_token": pad, "eos_token": eos, "bos_token": "<s>" if bos else None}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, chat_template=template, extra_special_tokens=["<|im_start|>", "<|im_end|>"], **special
    )


def trained_text(tokenizer: PreTrainedTokenizerFast, ids: list[int], labels: list[int]) -> str:
    """The text of the tokens that carry a label, each label the token's own id."""
    assert [token for token, label in zip(ids, labels, strict=True) if label != -100] == [
        label for label in labels if label != -100
    ]
    return tokenizer.decode([label for label in labels if label != -100])


def prepared(task, rows, tokenizer, facts, max_length):
    """Rows as a task prepares them, and the account of all that were read."""
    from finetune.data import encoding, lengths
    from finetune.data.rows import Rows
    from finetune.data.shards import Shard

    encoder = task.encoder(rows, tokenizer, facts, max_length)
    target = Path(tempfile.mkdtemp(dir=folder()))
    account = encoding.encode(rows, encoder, target)
    shard = Shard(target)
    pieces = lengths.fit(shard, lengths.Limit(max_length, encoder.overlong), account)
    return SimpleNamespace(rows=Rows([shard], pieces), account=account)


@cache
def folder() -> Path:
    """A folder that goes with the process."""
    made = Path(tempfile.mkdtemp(prefix="tiny-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def llama() -> Path:
    """A causal language model with random weights and the ChatML tokenizer."""
    words = chat_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "bos_token_id": None}
    config = LlamaConfig(
        vocab_size=len(words), max_position_embeddings=256, initializer_range=0.6, num_key_value_heads=2, **sizes,
        **special,
    )  # fmt: skip
    target = folder() / "llama"
    LlamaForCausalLM(config).save_pretrained(target)
    words.save_pretrained(target)
    return target


@cache
def bert_vocabulary() -> Path:
    file = folder() / "vocab.txt"
    letters = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz" for prefix in ("", "##")]
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *dict.fromkeys(letters)]) + "\n")
    return file


def bert_tokenizer(model_max_length: int = 16) -> BertTokenizerFast:
    return BertTokenizerFast(str(bert_vocabulary()), model_max_length=model_max_length)


@cache
def bert() -> Path:
    """A sequence classifier with random weights, two labels and 16 positions."""
    words = bert_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=16, initializer_range=0.6, **sizes)
    target = folder() / "bert"
    BertForSequenceClassification(config).save_pretrained(target)
    words.save_pretrained(target)
    return target
