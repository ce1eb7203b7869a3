"""Answers from a causal language model: greedy, left-padded, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 8


@dataclass(frozen=True)
class Answer:
    """What the model said, and whether the token limit cut it off."""

    text: str
    capped: bool


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Any], max_new_tokens: int
) -> Iterator[Answer]:
    """One answer a prompt, in order.

    Args:
        prompts: texts, or conversations as lists of messages that end with what is to be answered.
    """
    texts = [_text(tokenizer, prompt) for prompt in prompts]
    for start in range(0, len(texts), BATCH):
        yield from _batch(model, tokenizer, texts[start : start + BATCH], max_new_tokens)


def _text(tokenizer: PreTrainedTokenizerBase, prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))


@torch.no_grad()
def _batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], max_new_tokens: int
) -> Iterator[Answer]:
    # Rendered prompts hold their own special tokens.
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items() if name != "token_type_ids"}
    output = model.generate(  # type: ignore[operator]
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    stops = model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops or [])
    for row in output[:, inputs["input_ids"].shape[1] :].tolist():
        yield Answer(str(tokenizer.decode(row, skip_special_tokens=True)).strip(), not stops.intersection(row))
