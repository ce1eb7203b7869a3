"""Answers from a model that writes, in batches: greedy unless asked otherwise.

A causal language model goes on with a prompt, padded on the left. An encoder-decoder writes a text of its own, the way
its own generation config says, such as with beams, but draws nothing unasked.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune.models.tokenizer import positions

BATCH = 8
log = logging.getLogger(__name__)
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
BEAMS = ("early_stopping", "length_penalty")
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def drop_idle(model: Any) -> None:
    """Leave out options that nothing reads: transformers loads such a config, and refuses to save it."""
    config = getattr(model, "generation_config", None)
    if config is None or not _is_refused(config):
        return
    names = (*(SAMPLING if not config.do_sample else ()), *(BEAMS if config.num_beams in (None, 1) else ()))
    idle = [name for name in names if getattr(config, name, None) is not None]
    config.update(**dict.fromkeys(idle))
    log.warning("left out of the model's generation_config, because nothing reads it: %s", ", ".join(idle))


def _is_refused(config: Any) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return True
    return False


@dataclass(frozen=True)
class Answer:
    """What the model said, and whether the token limit cut it off."""

    text: str
    capped: bool


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Any], options: dict[str, Any]
) -> Iterator[Answer]:
    """One answer a prompt, in order.

    Args:
        prompts: texts, or conversations that end with what is to be answered: lists of messages, or mappings with
            `messages` and `tools`.
        options: of transformers' GenerationConfig.
    """
    rows = [_ids(tokenizer, prompt) for prompt in prompts]
    for start in range(0, len(rows), BATCH):
        yield from _batch(model, tokenizer, rows[start : start + BATCH], options)


def _ids(tokenizer: PreTrainedTokenizerBase, prompt: Any) -> list[int]:
    """Rendered prompts hold their own special tokens; bare ones get what a text begins with, not what ends it."""
    if not isinstance(prompt, str):
        messages, tools = (prompt["messages"], prompt["tools"]) if isinstance(prompt, dict) else (prompt, None)
        prompt = str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True))
        return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(prompt)["input_ids"])
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids


def written(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], options: dict[str, Any]
) -> Iterator[Answer]:
    """What an encoder-decoder writes for each text, in order.

    Args:
        options: `max_new_tokens`; where known, `generation_config`, of transformers' GenerationConfig, `max_length`,
            tokens at which a text is cut, and `batch_size`.
    """
    cut, size = options.get("max_length"), options.get("batch_size", BATCH)
    decoding = {"max_new_tokens": options["max_new_tokens"]} | options.get("generation_config", {})
    for start in range(0, len(texts), size):
        part = list(texts[start : start + size])
        padded = tokenizer(part, padding=True, truncation=cut is not None, max_length=cut, return_tensors="pt")
        yield from _written(model, tokenizer, padded, decoding)


@torch.no_grad()
def _written(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, padded: Any, options: dict[str, Any]
) -> Iterator[Answer]:
    inputs = {name: padded[name].to(model.device) for name in ("input_ids", "attention_mask")}
    # A forced end would hide that the limit was hit.
    decoding = GREEDY | {"forced_eos_token_id": None} | _within(model, 1, options)
    output = model.generate(**inputs, **decoding)  # type: ignore[operator]
    # The decoder begins with a token of its own, which may be the one that ends a text.
    for row in output[:, 1:].tolist():
        yield Answer(str(tokenizer.decode(row, skip_special_tokens=True)).strip(), not _stops(model).intersection(row))


@torch.no_grad()
def transcribed(
    model: PreTrainedModel, words: PreTrainedTokenizerBase, heard: Mapping[str, Any], options: dict[str, Any]
) -> Iterator[Answer]:
    """What an encoder-decoder writes of a batch of sounds, in order.

    Whisper gives neither what its decoder begins with nor the token that ends a text, where others give both.

    Args:
        heard: what the model takes, a row each.
        options: as of `written`.
    """
    inputs = {name: value.to(model.device) for name, value in heard.items()}
    wanted = {"max_new_tokens": options["max_new_tokens"]} | options.get("generation_config", {})
    used = len(words("")["input_ids"])  # what stands before a text
    decoding = GREEDY | {"forced_eos_token_id": None} | _within(model, used, wanted)
    begin, stops = model.generation_config.decoder_start_token_id, _stops(model)
    for row in model.generate(**inputs, **decoding).tolist():  # type: ignore[operator]
        own = list(takewhile(lambda token: token not in stops, row[1:] if row[0] == begin else row))
        yield Answer(str(words.decode(own, skip_special_tokens=True)).strip(), len(own) >= decoding["max_new_tokens"])


def _within(model: PreTrainedModel, used: int, options: dict[str, Any]) -> dict[str, Any]:
    """Options with no more new tokens than there are positions left for: behind the last, some models have nothing."""
    most, wanted = positions(model.config), options.get("max_new_tokens")
    return options | {"max_new_tokens": max(1, min(wanted, most - used))} if most and wanted else options


def _stops(model: PreTrainedModel) -> set[int]:
    stops = model.generation_config.eos_token_id
    return {stops} if isinstance(stops, int) else set(stops or [])


@torch.no_grad()
def _batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], options: dict[str, Any]
) -> Iterator[Answer]:
    padded = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt", verbose=False)
    inputs = {name: tensor.to(model.device) for name, tensor in padded.items()}
    longest = inputs["input_ids"].shape[1]
    decoding = GREEDY | _within(model, longest, options)
    output = model.generate(**inputs, **decoding, pad_token_id=tokenizer.pad_token_id)  # type: ignore[operator]
    for row in output[:, longest:].tolist():
        yield Answer(str(tokenizer.decode(row, skip_special_tokens=True)).strip(), not _stops(model).intersection(row))
