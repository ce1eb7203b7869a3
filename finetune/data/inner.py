"""Parts of a turn that are not trained: its reasoning, its tool calls, as characters of the rendered text.

A part is what is there with a field of the message and not without it. Reasoning that stands in the content itself is
what `<think>` and `</think>` enclose. Knows no tokens.
"""

from collections.abc import Iterable, Iterator
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
) -> Iterator[Span]:
    """The spans of a turn that are not trained.

    Args:
        text: the rendered conversation.
    Raises:
        UserError: the template does not write the part as one piece, so where it is cannot be proved.
    """
    message = conversation.messages[turn.message]
    for what in left:
        thought = _enclosed(text, turn) if what == "reasoning" else None
        if thought:
            yield thought
        fields = [field for field in FIELDS[what] if message.get(field)]
        if not fields or (thought and all(_is_in(message[field], text[slice(*thought)]) for field in fields)):
            continue
        if span := _difference(tokenizer, conversation, text, turn, fields):
            yield span


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
) -> Span | None:
    """What is there with the fields and not without them; None where the template leaves them out."""
    messages = list(conversation.messages)
    messages[turn.message] = _without(messages[turn.message], fields)
    other = render(tokenizer, replace(conversation, messages=messages))
    if other == text:
        return None
    start = shared(text, other)
    end = start + len(text) - len(other)
    if end <= start or text[end:] != other[start:] or start < turn.start or end > turn.end:
        raise UserError(
            f"the template does not write {', '.join(fields)} of a turn as one piece, so what is not to be trained "
            "cannot be proved. Train it, or leave it out of the rows"
        )
    return start, end


def _without(message: Message, fields: list[str]) -> Message:
    return {"content": "", **{name: value for name, value in message.items() if name not in fields}}
