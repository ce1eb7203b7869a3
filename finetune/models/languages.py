"""Tokenizers of many languages: they write the language beside a text, and the decoder begins with the target's.

Knows tokenizers that have a source and a target language (NLLB, mBART, M2M100, PLBart, …), and none of their codes;
and those of what is spoken (Whisper).
"""

from __future__ import annotations

from typing import Any

from finetune.config.suggest import did_you_mean
from finetune.errors import UserError


def choose(tokenizer: Any, source: str | None, target: str | None) -> dict[str, int]:
    """Tell the tokenizer both languages; nothing where it knows none.

    Returns:
        How a decoder begins in the target language, in words of GenerationConfig; empty where nothing says so.
    Raises:
        UserError: it knows languages and one is not named, or is none of them.
    """
    if not (hasattr(tokenizer, "src_lang") and hasattr(tokenizer, "tgt_lang")):
        return {}
    for role, code in (("source", source), ("target", target)):
        if code is None:
            raise UserError(
                f"the tokenizer writes a text's language beside it: write task.{role}_lang, as {tokenizer.src_lang}"
            )
        _check(tokenizer, role, code)
    tokenizer.src_lang, tokenizer.tgt_lang = source, target
    # What is saved with the tokenizer.
    tokenizer.init_kwargs.update(src_lang=source, tgt_lang=target)
    return _begin(tokenizer(text_target="")["input_ids"], tokenizer.eos_token_id)


def speak(tokenizer: Any, language: str | None) -> None:
    """Tell a tokenizer of transcripts (Whisper's) what is spoken, which it writes before each; nothing where none is.

    Raises:
        UserError: it knows no languages, or not this one.
    """
    if language is None:
        return
    if not hasattr(tokenizer, "set_prefix_tokens"):
        raise UserError(f"task.language={language}: the tokenizer knows no languages. Leave it out")
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE as CODES

    code = CODES.get(language.lower(), language.lower())
    if code not in CODES.values() or f"<|{code}|>" not in tokenizer.get_vocab():
        hint = did_you_mean(language, list(CODES))
        raise UserError(f"task.language={language}: the tokenizer knows no such language. {hint}".rstrip())
    tokenizer.set_prefix_tokens(language=code, task="transcribe")
    # What is saved with the tokenizer.
    tokenizer.init_kwargs.update(language=code, task="transcribe")


def _check(tokenizer: Any, role: str, code: str) -> None:
    """An unknown code would become a word of the text, or the unknown token."""
    before = tokenizer.src_lang
    special = {at for at, token in tokenizer.added_tokens_decoder.items() if token.special}
    try:
        tokenizer.src_lang = code
        written = [token for token in tokenizer("")["input_ids"] if token != tokenizer.eos_token_id]
    except (KeyError, TypeError, ValueError):
        written = [tokenizer.unk_token_id]
    tokenizer.src_lang = before
    if not special.issuperset(written) or tokenizer.unk_token_id in written:
        hint = did_you_mean(code, [str(token) for token in tokenizer.get_added_vocab()])
        raise UserError(f"task.{role}_lang={code}: the tokenizer knows no such language. {hint}".rstrip())


def _begin(empty: list[int], end: int) -> dict[str, int]:
    """What an empty text in the target language says of how the decoder begins."""
    if empty[0] != end:
        return {"forced_bos_token_id": empty[0]}
    # mBART's targets end with their language, and its decoder begins with what a target ends with.
    return {"decoder_start_token_id": empty[-1]} if empty[-1] != end else {}
