"""Answers from a causal language model: greedy unless asked otherwise, left-padded, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 8
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


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


@torch.no_grad()
def _batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[list[int]], options: dict[str, Any]
) -> Iterator[Answer]:
    padded = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt", verbose=False)
    inputs = {name: tensor.to(model.device) for name, tensor in padded.items()}
    output = model.generate(**inputs, **GREEDY | options, pad_token_id=tokenizer.pad_token_id)  # type: ignore[operator]
    stops = model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops or [])
    for row in output[:, inputs["input_ids"].shape[1] :].tolist():
        yield Answer(str(tokenizer.decode(row, skip_special_tokens=True)).strip(), not stops.intersection(row))
