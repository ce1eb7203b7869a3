"""A tiny tokenizer, trained on the spot: bytes and frequent pairs, with the special tokens of a family.

Knows texts and families. Knows no model beyond whether it tells the texts of a pair apart.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from finetune.rehearse.known import Family

VOCABULARY = 1024
# Of Llama 3 and Qwen. Newlines stay together whatever follows, so that no turn shares a token with its header.
WORD = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(family: Family, texts: Iterable[str], has_pairs: bool) -> PreTrainedTokenizerBase:
    """A tokenizer of at most 1,024 tokens that gives every text back as it was.

    Args:
        has_pairs: whether the model takes `token_type_ids`.
    """
    if family.tokenizer:
        return _of_class(getattr(transformers, family.tokenizer), family, texts)
    words = Tokenizer(models.BPE())
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(WORD, "isolated"), bytes_of])
    words.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys([*family.special.values(), *family.tokens]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(texts, trainer)
    if around := _around(family):
        words.post_processor = _processor(words, *around)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        chat_template=family.template,
        extra_special_tokens=family.tokens,
        model_input_names=["input_ids", *(["token_type_ids"] if has_pairs else []), "attention_mask"],
        **{f"{role}_token": token for role, token in family.special.items()},
    )


def _of_class(kind: Any, family: Family, texts: Iterable[str]) -> Any:
    """A tokenizer of a class of its own: trained, or of letters, whose vocabulary is that of the family."""
    if issubclass(kind, PreTrainedTokenizerFast):
        given = {"new_special_tokens": family.tokens} if family.tokens else {}
        special = {f"{role}_token": token for role, token in family.special.items()}
        return kind(**special).train_new_from_iterator(texts, VOCABULARY, show_progress=False, **given)
    tokens = [*family.special.values(), *family.tokens]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({token: at for at, token in enumerate(tokens)}), encoding="utf-8")
        return kind(str(file))


def _around(family: Family) -> tuple[str, str] | None:
    """What a text begins and ends with."""
    special = family.special
    if "cls" in special and "sep" in special:
        return special["cls"], special["sep"]
    first, last = special["bos"] if family.begins else "", special["eos"] if family.ends else ""
    return (first, last) if first or last else None


def _processor(words: Tokenizer, first: str, last: str) -> Any:
    """Adds what texts and pairs of texts begin and end with."""
    single = " ".join(filter(None, (first, "$A", last)))
    pair = " ".join(filter(None, (single, "$B:1", f"{last}:1" if last else "")))
    ids = [(token, words.token_to_id(token)) for token in {first, last} if token]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def texts_of(value: Any) -> Iterator[str]:
    """Every text in rows, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts_of(part)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for part in value:
            yield from texts_of(part)
