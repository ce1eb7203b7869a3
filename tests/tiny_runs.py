"""Tiny models with random weights, tiny data that can be learned, and runs of them; each made once a session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from tiny import chat_tokenizer
from tiny import folder as session_folder
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from finetune import cli, run, worker
from finetune.artifacts import verify
from finetune.config.check import load_config
from finetune.config.schema import Config
from finetune.plan.planned import planned
from finetune.plan.run_folder import RunFolder, find

LABELS = {"animal": "cat dog cow hen", "plant": "oak elm fir ivy", "stone": "ore gem jet tin"}
SPOKEN = {"cat": "chat", "dog": "chien", "cow": "vache", "hen": "poule", "oak": "chêne", "fir": "sapin"}


@cache
def root() -> Path:
    """Where the models, data and runs of this file lie."""
    (session_folder() / "runs").mkdir()
    return session_folder() / "runs"


@contextmanager
def own_caches() -> Iterator[None]:
    """What is prepared goes into our own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root() / "cache"))
        yield


@cache
def bert() -> Path:
    """A BERT without a head, as a base is published."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", *" ".join(LABELS.values()).split()]
    folder = root() / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=32, initializer_range=0.3, **sizes, **dropout)
    BertModel(config).save_pretrained(folder)
    return folder


@cache
def llama() -> Path:
    """A causal language model with a ChatML tokenizer."""
    folder = root() / "llama"
    words = chat_tokenizer()
    words.save_pretrained(folder)
    torch.manual_seed(0)
    # Wide enough for blocks of 64 values, which 4-bit quantization works in.
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "bos_token_id": None}
    config = LlamaConfig(
        vocab_size=len(words),
        max_position_embeddings=64,
        initializer_range=0.1,
        num_key_value_heads=2,
        **sizes,
        **special,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@cache
def bart() -> Path:
    """An encoder-decoder over whole words; each text ends with a token that its decoder begins with as well."""
    folder = root() / "bart"
    vocabulary = ["<pad>", "</s>", "<unk>", *sorted({word for pair in SPOKEN.items() for word in pair})]
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, **special).save_pretrained(folder)
    torch.manual_seed(0)
    sides = ("encoder", "decoder")
    sizes = {
        f"{side}_{of}": size for side in sides for of, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 64))
    }
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 1, "bos_token_id": 1}
    config = BartConfig(
        vocab_size=len(vocabulary), d_model=64, max_position_embeddings=32, init_std=0.1, dropout=0.0,
        forced_eos_token_id=1, **sizes, **ids,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(folder)
    return folder


def pairs(rows: int) -> list[dict[str, str]]:
    """Up to five words and the same ones in another language."""
    english = list(SPOKEN)
    picked = [[english[(at * 5 + n) % len(english)] for n in range(1 + at % 5)] for at in range(rows)]
    return [{"en": " ".join(words), "fr": " ".join(SPOKEN[word] for word in words)} for words in picked]


def texts(rows: int) -> list[dict[str, str]]:
    """Rows of different lengths, whose words decide their label."""
    found = []
    for at in range(rows):
        label = list(LABELS)[at % 3]
        words = LABELS[label].split()
        found.append({"text": " ".join(["the", *(words[(at + n) % 4] for n in range(1 + at % 5))]), "label": label})
    return found


def chats(rows: int) -> list[dict]:
    """Questions of one word; the answer is the kind."""
    pairs = [(word, label) for label, words in LABELS.items() for word in words.split()]
    picked = [pairs[at % len(pairs)] for at in range(rows)]
    return [
        {"messages": [{"role": "user", "content": f"a {word}"}, {"role": "assistant", "content": f"one {label}"}]}
        for word, label in picked
    ]


@cache
def data() -> Path:
    """A folder with `texts` as CSV, `chats` and `pairs` as JSONL, 48 rows to train and 12 to score."""
    folder = root() / "data"
    folder.mkdir()
    for split, rows in (("train", 48), ("validation", 12)):
        lines = ["text,label", *(f"{row['text']},{row['label']}" for row in texts(rows))]
        (folder / f"texts_{split}.csv").write_text("\n".join(lines) + "\n")
        for name, made in (("chats", chats(rows)), ("pairs", pairs(rows))):
            (folder / f"{name}_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return folder


def classify(*more: str) -> list[str]:
    """A recipe on the command line: labels of texts with BERT."""
    splits = "{train: texts_train.csv, validation: texts_validation.csv}"
    return ["task=sequence_classification", f"model.path={bert()}", *common(splits), *more]


def masked(*more: str) -> list[str]:
    """A recipe on the command line: words hidden in texts, with BERT."""
    splits = "{train: texts_train.csv, validation: texts_validation.csv}"
    hidden = ["task=masked_lm", "task.mlm_probability=0.4"]
    return [*hidden, f"model.path={bert()}", *common(splits), *more]


def chat(*more: str) -> list[str]:
    """A recipe on the command line: answers with Llama."""
    splits = "{train: chats_train.jsonl, validation: chats_validation.jsonl}"
    return ["task=sft", f"model.path={llama()}", *common(splits), *more]


def translate(*more: str) -> list[str]:
    """A recipe on the command line: words in another language with BART."""
    splits = "{train: pairs_train.jsonl, validation: pairs_validation.jsonl}"
    spoken = ["task=seq2seq", "task.source_lang=en", "task.target_lang=fr"]
    return [*spoken, f"model.path={bart()}", *common(splits), "trainer.learning_rate=3e-3", *more]


def common(splits: str) -> list[str]:
    trainer = ["per_device_train_batch_size=8", "learning_rate=1e-2", "max_steps=20", "logging_steps=2"]
    return [
        f"dataset.path={data()}",
        f"dataset.data_files={splits}",
        f"output_dir={root() / 'runs'}",
        "precision=fp32",
        *(f"trainer.{setting}" for setting in trainer),
    ]


LORA = ("adapter=lora", "adapter.lora_dropout=0")
KINDS = {
    "classify_lora": (classify, (*LORA, "model.base_id=alice/base")),
    "classify_full": (classify, ()),
    "chat_lora": (chat, (*LORA, "evaluation=generation", "evaluation.generation.max_new_tokens=12")),
    "chat_qlora": (chat, ("adapter=qlora", "adapter.lora_dropout=0")),
    "chat_full": (chat, ()),
}
BY_COMMAND = ("classify_lora", "chat_qlora")


@cache
def trained(kind: str) -> RunFolder:
    """A finished and verified run; for reading only. Those of the command line are verified in a fresh process."""
    recipe, more = KINDS[kind]
    if kind in BY_COMMAND:
        assert finetune("train", *recipe(*more, f"name={kind}")) == 0
        (folder,) = (root() / "runs" / kind).iterdir()
        return find(str(folder))
    found = worked(recipe(*more, f"name={kind}"), root() / "runs")
    assert all(finding.passed for finding in verify.compare(found))
    found.reached("verified")
    return found


def finetune(*words: str) -> int:
    """The command line in this process; its exit code."""
    with own_caches(), pytest.raises(SystemExit) as end:
        cli.main(list(words))
    return int(end.value.code or 0)


def config(arguments: Sequence[str]) -> Config:
    """The checked config of a command line."""
    return load_config(list(arguments))[0]


def worked(arguments: Sequence[str], folder: Path) -> RunFolder:
    """A run up to its saved model, without the fresh process that verifies it."""
    with own_caches():
        made, prepared = planned(config([*arguments, f"output_dir={folder}"]))
        found = run.frozen_folder(made, prepared)
        worker.work(found)
    return found


def copy_of(folder: RunFolder, target: Path) -> RunFolder:
    """A run that a test may change, below its own name: two runs may have begun in the same second."""
    return RunFolder(Path(shutil.copytree(folder.path, target / folder.path.parent.name / folder.path.name)))
