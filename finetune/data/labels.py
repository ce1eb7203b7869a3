"""Which tokens of a conversation are trained, decided on token ids and proved; without proof, an error.

Two proofs, in this order:
  markers   the template marks what the assistant says with `{% generation %}`
  prefixes  the conversation up to a turn, rendered alone, is a prefix of the whole, compared on token ids
Padding plays no part here: it is masked by position, in the collator.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from finetune.data.conversations import Message
from finetune.data.encoding import IGNORED
from finetune.errors import UserError

SENTINEL = "finetune"


@dataclass(frozen=True)
class Labelled:
    """One row: its token ids, and labels of the same length, -100 where nothing is trained."""

    input_ids: list[int]
    labels: list[int]


def terminator(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an assistant turn, found by rendering one.

    Raises:
        UserError: the template ends a turn with no special token, so a model would never learn to stop.
    """
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": SENTINEL}]
    tail = render(tokenizer, turns).rpartition(SENTINEL)[2]
    special = set(tokenizer.all_special_ids) | {token for token in tokenizer.added_tokens_decoder}
    for token in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if token in special:
            return int(token)
    raise UserError(
        f"the chat template ends an assistant turn with {tail!r}, which holds no special token, so the model could "
        "not learn to stop. Add {{ eos_token }} to the template (tokenizer.chat_template=FILE.jinja)."
    )


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prompt: bool = False) -> str:
    """The text of a conversation; `prompt` adds what invites the assistant to speak."""
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))


def count_trained(rows: Dataset) -> int:
    """Tokens that carry a label, over all rows."""
    return sum(len(labels) - labels.count(IGNORED) for labels in rows["labels"]) if len(rows) else 0


def has_markers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template says itself what the assistant generates."""
    template = tokenizer.get_chat_template()
    return "{% generation" in template or "{%- generation" in template


def label_text(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Labelled]:
    """Plain texts: every token is trained, and each text ends with the end-of-sequence token."""
    rows = tokenizer(list(texts))["input_ids"]
    ended = [ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id] for ids in rows]
    return [Labelled(ids, list(ids)) for ids in ended]


def label(conversations: Sequence[Sequence[Message]], tokenizer: PreTrainedTokenizerBase, mask: str) -> list[Labelled]:
    """Token ids and labels of conversations.

    Args:
        mask: `assistant` trains every assistant turn, `last_turn` the last one, `all` every token.
    Raises:
        UserError: the trained span of a row cannot be proved, or would miss its end-of-turn token.
    """
    if mask == "all":
        rows = _tokenize(tokenizer, [render(tokenizer, conversation) for conversation in conversations])
        return [Labelled(ids, list(ids)) for ids in rows]
    stop = terminator(tokenizer)
    mark = _marked if has_markers(tokenizer) else _prefixed
    spans = mark(conversations, tokenizer, last_only=mask == "last_turn")
    return [_labelled(ids, row, stop, index) for index, (ids, row) in enumerate(spans)]


Spans = list[tuple[int, int]]


def _labelled(ids: list[int], spans: Spans, stop: int, index: int) -> Labelled:
    """Labels for the spans, each cut after its end-of-turn token: what follows is the template's, not the model's."""
    labels = [IGNORED] * len(ids)
    for start, end in spans:
        stops = [position for position in range(start, end) if ids[position] == stop]
        if not stops:
            raise UserError(f"row {index}: an assistant turn is rendered without its end-of-turn token")
        labels[start : stops[-1] + 1] = ids[start : stops[-1] + 1]
    return Labelled(ids, labels)


def _prefixed(
    conversations: Sequence[Sequence[Message]], tokenizer: PreTrainedTokenizerBase, last_only: bool
) -> list[tuple[list[int], Spans]]:
    """Spans by rendering each conversation up to a turn, in one tokenizer call for all."""
    turns = [_assistant_turns(conversation, last_only) for conversation in conversations]
    texts = [text for row, at in zip(conversations, turns, strict=True) for text in _prefixes(tokenizer, row, at)]
    tokenized = iter(_tokenize(tokenizer, texts))
    return [_prove(tokenized, len(at), index) for index, at in enumerate(turns)]


def _prefixes(tokenizer: PreTrainedTokenizerBase, row: Sequence[Message], turns: Iterable[int]) -> list[str]:
    """The whole, then for each turn the text before it and the text up to its end."""
    around = [(render(tokenizer, row[:at], prompt=True), render(tokenizer, row[: at + 1])) for at in turns]
    return [render(tokenizer, row), *(text for pair in around for text in pair)]


def _prove(tokenized: Any, turns: int, index: int) -> tuple[list[int], Spans]:
    whole = next(tokenized)
    pairs = [(next(tokenized), next(tokenized)) for _ in range(turns)]
    for ids in (ids for pair in pairs for ids in pair):
        if whole[: len(ids)] != ids:
            raise UserError(
                f"row {index}: the conversation up to an assistant turn is not a prefix of the whole once rendered, "
                "so which tokens the assistant says cannot be proved. The template rewrites earlier turns: write "
                "task.mask=last_turn, or a template with {% generation %} markers."
            )
    return whole, [(len(before), len(upto)) for before, upto in pairs]


def _marked(
    conversations: Sequence[Sequence[Message]], tokenizer: PreTrainedTokenizerBase, last_only: bool
) -> list[tuple[list[int], Spans]]:
    """Spans by the template's own markers."""
    encoded: Any = tokenizer.apply_chat_template(
        [list(row) for row in conversations], return_dict=True, return_assistant_tokens_mask=True
    )
    rows = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    return [(list(ids), _runs(mask)[-1:] if last_only else _runs(mask)) for ids, mask in rows]


def _runs(mask: Sequence[int]) -> Spans:
    """Start and end of each run of ones."""
    edges = [at for at in range(len(mask) + 1) if (at < len(mask) and mask[at]) != (at > 0 and mask[at - 1])]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _assistant_turns(conversation: Sequence[Message], last_only: bool) -> list[int]:
    turns = [at for at, message in enumerate(conversation) if message["role"] == "assistant"]
    return turns[-1:] if last_only else turns


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Rendered text holds its own special tokens; adding them again would double the first one."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids
