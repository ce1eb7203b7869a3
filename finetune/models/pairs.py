"""Two texts as one input: their tokens, with special tokens around and between them. Knows token ids, no text.

sentence-transformers tokenizes pairs anew for each step, inside its losses. Here the tokens of each text are made
once, and a pair is put together from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from transformers.modeling_outputs import SequenceClassifierOutput

from finetune.models.outputs import recorded

Tokens = Sequence[int]
PAD = -1
"""Fills up what is paired later, as `data.joined` does; no token has this id."""


@dataclass(frozen=True)
class Joint:
    """What a tokenizer puts before, between and behind two texts."""

    before: list[int]
    between: list[int]
    after: list[int]
    second: int | None
    """The type of the tokens behind the first text; None where the model knows none."""

    @classmethod
    def of(cls, tokenizer: Any) -> Joint:
        """As the tokenizer joins two letters."""
        found = tokenizer("a", "b")
        ids, sides = found["input_ids"], found.sequence_ids(0)
        first, second = sides.index(0), sides.index(1)
        ends = [len(sides) - sides[::-1].index(side) for side in (0, 1)]
        types = found["token_type_ids"][second] if "token_type_ids" in found else None
        return cls(ids[:first], ids[ends[0] : second], ids[ends[1] :], types)

    @property
    def special(self) -> int:
        """How many tokens it adds."""
        return len(self.before) + len(self.between) + len(self.after)

    def __call__(self, first: Tokens, second: Tokens, limit: int) -> dict[str, list[int]]:
        """The input of a pair, of at most `limit` tokens."""
        one, other = fitting(len(first), len(second), limit - self.special)
        head = [*self.before, *first[:one], *self.between]
        tail = [*second[:other], *self.after]
        types = {} if self.second is None else {"token_type_ids": [0] * len(head) + [self.second] * len(tail)}
        return {"input_ids": head + tail, **types}


def fitting(first: int, second: int, limit: int) -> tuple[int, int]:
    """How many tokens of each of two texts are kept: the longer one is cut first, as by `longest_first`."""
    if first + second <= limit:
        return first, second
    small, large = min(first, second), max(first, second)
    large = max(small, limit - small)
    if small + large > limit:
        small, large = limit // 2, limit // 2 + limit % 2
    return (small, large) if first <= second else (large, small)


class PairScorer(CrossEncoder):  # type: ignore[misc]
    """A cross encoder that takes pairs of tokens besides pairs of texts."""

    joint: Joint | None = None

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **more: Any) -> dict[str, Any]:
        """The batch of a few pairs."""
        if not inputs or isinstance(inputs[0], str) or isinstance(inputs[0][0], str):
            return super().preprocess(inputs, prompt=prompt, **more)
        self.joint = self.joint or Joint.of(self.tokenizer)
        rows = [self.joint(first, second, int(self.max_seq_length or 0)) for first, second in inputs]
        return dict(self.tokenizer.pad(rows, return_tensors="pt"))


def lists(ids: torch.Tensor) -> list[Any]:
    """Padded tokens without what pads them: lists of them, or lists of such lists."""
    if ids.ndim > 2:
        return [[tokens for tokens in lists(row) if tokens] for row in ids.cpu()]
    return [[token for token in row if token != PAD] for row in ids.tolist()]


class OfTokens(torch.nn.Module):
    """A loss that expects texts, given the padded tokens of a batch."""

    def __init__(self, loss: Any, one_by_one: bool, contrasted: bool) -> None:
        """Take the loss.

        Args:
            one_by_one: whether it takes a document a query, and not all candidates of one.
            contrasted: whether it compares a query with what belongs to others, and takes no labels.
        """
        super().__init__()
        self.loss, self.model, self.one_by_one, self.contrasted = loss, loss.model, one_by_one, contrasted

    def forward(self, features: Sequence[torch.Tensor], labels: torch.Tensor | None, **more: Any) -> torch.Tensor:
        """The loss of `candidates_padded`'s queries, documents and labels."""
        queries, documents = map(lists, features)
        if self.contrasted:
            return self.loss([queries, *zip(*documents, strict=True)], None, **more)
        assert labels is not None
        if self.one_by_one:
            pairs = paired(queries, documents)
            return self.loss(list(zip(*pairs, strict=True)), labels[~labels.isnan()], **more)
        return self.loss([queries, documents], [row[~row.isnan()] for row in labels], **more)


def paired(queries: Sequence[Tokens], documents: Sequence[Sequence[Tokens]]) -> list[tuple[Tokens, Tokens]]:
    """Each query with each of its documents, end to end."""
    return [(query, each) for query, candidates in zip(queries, documents, strict=True) for each in candidates]


def scored(model: Any, loss: OfTokens, batch: dict[str, torch.Tensor]) -> SequenceClassifierOutput:
    """The loss, and as `logits` the score of each pair, (pairs,). What a loss draws is always the same here."""
    features = (batch["query"], batch["documents"])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        found, seen = recorded(model, "scores", lambda: loss(features, batch.get("label")))
    if loss.contrasted:  # a query was scored with other documents as well
        inputs = model.preprocess(paired(*map(lists, features)))
        seen = [model({name: value.to(model.device) for name, value in inputs.items()})["scores"]]
    return SequenceClassifierOutput(loss=found, logits=torch.cat(seen).view(-1))
