"""Parts of a turn that are not trained: its reasoning, its tool calls, as characters of the rendered text.

A part is what is there with a field of the message and not without it. Reasoning that stands in the content itself is
what `<think>` and `</think>` enclose. Knows no tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from finetune.data.conversations import Conversation, Message
from finetune.data.templates import render, shared
from finetune.data.turns import Span, Turn
from finetune.errors import UserError

FIELDS: dict[str, tuple[str, ...]] = {
    "reasoning": ("reasoning_content", "thinking", "reasoning"),
    "tool_calls": ("tool_calls",),
}
OPEN, CLOSE = "<think>", "</think>"


def left_out(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, text: str, turn: Turn, left: Iterable[str]
) -> Iterator[Sequence[Span]]:
    """The parts of a turn that are not trained, each as the spans that it may be, the likeliest first.

    Args:
        text: the rendered conversation.
    Raises:
        UserError: the template does not write the part as one piece, so where it is cannot be proved.
    """
    message = conversation.messages[turn.message]
    for what in left:
        thought = _enclosed(text, turn) if what == "reasoning" else None
        if thought:
            yield [thought]
        fields = [field for field in FIELDS[what] if message.get(field)]
        if not fields or (thought and all(_is_in(message[field], text[slice(*thought)]) for field in fields)):
            continue
        if spans := _difference(tokenizer, conversation, text, turn, fields):
            # Reasoning is right behind the prompt, and tool calls are right before the end.
            yield spans if what == "reasoning" else spans[::-1]


def _enclosed(text: str, turn: Turn) -> Span | None:
    """From `<think>`, or from the start where the prompt has it, to the last `</think>` of a turn."""
    start, end = turn.start, turn.end
    close = text.rfind(CLOSE, start, end)
    if close < 0:
        return None
    open_ = text.find(OPEN, start, close)
    return (start if open_ < 0 else open_, close + len(CLOSE))


def _is_in(part: object, text: str) -> bool:
    return isinstance(part, str) and part.strip() in text


def _difference(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, text: str, turn: Turn, fields: list[str]
) -> list[Span]:
    """What is there with the fields and not without them, from the first place that it may have to the last.

    There are several where what follows begins as the part does: `(a)` before `(b)` may be `a)(` as well. There is
    none where the template leaves the fields out.
    """
    messages = list(conversation.messages)
    messages[turn.message] = _without(messages[turn.message], fields)
    other = render(tokenizer, replace(conversation, messages=messages))
    length = len(text) - len(other)
    if other == text:
        return []
    last = min(shared(text, other), turn.end - length)
    if length <= 0 or last < turn.start or text[last + length :] != other[last:]:
        raise UserError(
            f"the template does not write {', '.join(fields)} of a turn as one piece, so what is not to be trained "
            "cannot be proved. Train it, or leave it out of the rows"
        )
    first = last
    while first > turn.start and text[first - 1] == text[first - 1 + length]:
        first -= 1
    return [(start, start + length) for start in range(first, last + 1)]


def _without(message: Message, fields: list[str]) -> Message:
    return {"content": "", **{name: value for name, value in message.items() if name not in fields}}
