"""Where the assistant speaks in a rendered conversation: spans of characters, each found in one of three ways.

  boundaries  the recipe declares what a turn begins and ends with
  markers     the template marks what the assistant says with `{% generation %}`
  prefixes    the conversation is rendered up to the turn, and the whole begins with that text

Knows characters. That a span is whole tokens is proved in `cuts`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from os.path import commonprefix

from transformers import PreTrainedTokenizerBase

from finetune.config.task import RowError
from finetune.data.conversations import Conversation, Message
from finetune.data.templates import marked, render
from finetune.errors import UserError

REWRITTEN = (
    "the conversation up to an assistant turn is not a prefix of the whole once rendered, so which tokens the "
    "assistant says cannot be proved. The template rewrites earlier turns: write task.mask=last_turn, or a "
    "template with {% generation %} markers."
)
Span = tuple[int, int]


@dataclass(frozen=True)
class Turn:
    """What the assistant says in one message: spans of characters, the last one up to the end of the turn."""

    message: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, the turns in it that are trained, and what the text leaves out."""

    text: str
    turns: tuple[Turn, ...]
    lost: tuple[str, ...] = ()


Find = Callable[[PreTrainedTokenizerBase, Conversation], Rendered]


def by_prefixes(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> Rendered:
    """Turns by rendering the conversation up to each.

    A text that closes every conversation, behind the turn's own end, may differ; what the assistant says may not.

    Raises:
        RowError: the conversation begins with the assistant.
        UserError: the template renders an earlier turn differently once another one follows.
    """
    text, messages = render(tokenizer, conversation), conversation.messages
    turns = []
    for at in conversation.trained:
        if at == 0:
            raise RowError("the first message is the assistant's, and nothing before it invites it to speak")
        before = render(tokenizer, replace(conversation, messages=messages[:at]), prompt=True)
        upto = render(tokenizer, replace(conversation, messages=messages[: at + 1]))
        end = len(upto) if text.startswith(upto) else len(commonprefix([text, upto]))
        if not text.startswith(before) or (end < len(upto) and not _holds(text[len(before) : end], messages[at])):
            raise UserError(REWRITTEN)
        turns.append(Turn(at, ((len(before), end),)))
    return Rendered(text, tuple(turns))


def _holds(text: str, message: Message) -> bool:
    content = message.get("content")
    return isinstance(content, str) and bool(content.strip()) and content.strip() in text


def by_markers(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> Rendered:
    """Turns by the template's own markers.

    Raises:
        UserError: the template marks more or fewer spans than the assistant has messages, and rendering up to each
            message does not tell which are whose.
    """
    text, spans = marked(tokenizer, conversation)
    said = [at for at, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    counts = [1] * len(said) if len(spans) == len(said) else _counted(tokenizer, conversation, said)
    if sum(counts) != len(spans) or 0 in counts:
        raise UserError(
            f"the template marks {len(spans)} spans with {{% generation %}} for {len(said)} assistant messages, and "
            "which are whose cannot be proved"
        )
    ends = list(accumulate(counts))
    whose = {at: tuple(spans[end - count : end]) for at, end, count in zip(said, ends, counts, strict=True)}
    return Rendered(text, tuple(Turn(at, whose[at]) for at in conversation.trained))


def _counted(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, said: Sequence[int]) -> list[int]:
    """How many spans each assistant message adds."""
    parts = [replace(conversation, messages=conversation.messages[: at + 1]) for at in said]
    totals = [len(marked(tokenizer, part)[1]) for part in parts]
    return [total - before for total, before in zip(totals, [0, *totals], strict=False)]


def by_boundaries(start: str, end: str) -> Find:
    """Turns by what the recipe says that each begins and ends with."""

    def find(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> Rendered:
        text = render(tokenizer, conversation)
        said = [at for at, message in enumerate(conversation.messages) if message["role"] == "assistant"]
        begins = [found.end() for found in re.finditer(re.escape(start), text)]
        if len(begins) != len(said):
            raise RowError(
                f"task.boundaries.start={start!r} occurs {len(begins)} times for {len(said)} assistant messages"
            )
        ends = [text.find(end, begin) for begin in begins]
        if any(stop < 0 or stop > limit for stop, limit in zip(ends, [*begins[1:], len(text)], strict=True)):
            raise RowError(f"task.boundaries.end={end!r} does not end every assistant message")
        spans = dict(zip(said, zip(begins, ends, strict=True), strict=True))
        if not all(_holds_or_calls(text[slice(*spans[at])], conversation.messages[at]) for at in said):
            raise RowError("task.boundaries: what the assistant says does not stand between start and end")
        turns = (Turn(at, ((spans[at][0], spans[at][1] + len(end)),)) for at in conversation.trained)
        return Rendered(text, tuple(turns))

    return find


def _holds_or_calls(text: str, message: Message) -> bool:
    """Tool calls and contents of several parts are written in ways of the template's own."""
    return "tool_calls" in message or isinstance(message.get("content"), list) or _holds(text, message)
