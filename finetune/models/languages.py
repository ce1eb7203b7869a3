"""Tokenizers of many languages: they write the language beside a text, and the decoder begins with the target's.

Knows tokenizers that have a source and a target language (NLLB, mBART, M2M100, PLBart, …), and none of their codes.
"""

from __future__ import annotations

from typing import Any

from finetune.config.suggest import did_you_mean
from finetune.errors import UserError


def choose(tokenizer: Any, source: str | None, target: str | None) -> None:
    """Tell the tokenizer both languages; nothing where it knows none.

    Raises:
        UserError: it knows languages and one is not named, or is none of them.
    """
    if not _knows(tokenizer):
        return
    for role, code in (("source", source), ("target", target)):
        if code is None:
            raise UserError(
                f"the tokenizer writes a text's language beside it: write task.{role}_lang, as {tokenizer.src_lang}"
            )
        _check(tokenizer, role, code)
    tokenizer.src_lang, tokenizer.tgt_lang = source, target
    # What is saved with the tokenizer.
    tokenizer.init_kwargs.update(src_lang=source, tgt_lang=target)


def _knows(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "src_lang") and hasattr(tokenizer, "tgt_lang")


def _check(tokenizer: Any, role: str, code: str) -> None:
    """An unknown code would become a word of the text, or the unknown token."""
    before, special = tokenizer.src_lang, set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    try:
        tokenizer.src_lang = code
        written = [token for token in tokenizer("")["input_ids"] if token != tokenizer.eos_token_id]
    except (KeyError, TypeError, ValueError):
        written = [tokenizer.unk_token_id]
    tokenizer.src_lang = before
    if not special.issuperset(written) or tokenizer.unk_token_id in written:
        hint = did_you_mean(code, [str(token) for token in tokenizer.get_added_vocab()])
        raise UserError(f"task.{role}_lang={code}: the tokenizer knows no such language. {hint}".rstrip())


def begins(tokenizer: Any) -> dict[str, int]:
    """How a decoder begins in the target language, in words of GenerationConfig; empty where nothing says so."""
    if not _knows(tokenizer):
        return {}
    written = tokenizer(text_target="")["input_ids"]
    if written[0] != tokenizer.eos_token_id:
        return {"forced_bos_token_id": written[0]}
    # mBART's targets end with their language, and its decoder begins with what a target ends with.
    return {"decoder_start_token_id": written[-1]} if written[-1] != tokenizer.eos_token_id else {}
