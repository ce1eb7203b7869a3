"""The turns of many conversations: each shape is searched once, and a row is held against its shape.

A conversation of plain texts is searched with a word of ours in place of each text. A row of that shape is then proved
by one comparison: its text is the template's own text with the row's texts put in, character by character. Where it is
not, and where a text holds what the template looks for in texts (`asked`), the row itself is searched.

Knows characters, and no way of finding turns.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune.config.task import RowError
from finetune.data.asked import asked
from finetune.data.conversations import Conversation
from finetune.data.inner import FIELDS
from finetune.data.templates import compiled, invited_with, lost, render, syntax
from finetune.data.turns import Find, Rendered, Span, Turn, check_said
from finetune.errors import UserError

WORD = re.compile(r"qz(\d+)zq")
MOST_SHAPES = 4096


@dataclass(frozen=True)
class Shape:
    """The text of a template around the texts of a conversation, and where in it the turns are.

    A place is how many of the texts stand before it, and how many characters of the template's own.
    """

    render: Callable[[Conversation], str]
    frame: str
    """The text with `%s` for each of the conversation's."""
    order: tuple[int, ...]
    """Which text of the conversation each of them is."""
    turns: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]
    """The message of each turn, and its places: the end of the prompt, then the start and end of each span."""
    lost: tuple[str, ...]

    def fitted(self, text: str, values: Sequence[str]) -> Rendered | None:
        """The turns of a row, if its text is this shape with its values put in."""
        between = [values[slot] for slot in self.order]
        if self.frame % tuple(between) != text:
            return None
        before = list(accumulate(map(len, between), initial=0))
        turns = []
        for message, places in self.turns:
            flat = [before[count] + offset for count, offset in places]
            turns.append(Turn(message, tuple(zip(flat[1::2], flat[2::2], strict=True)), flat[0]))
        return Rendered(text, tuple(turns), self.lost)


class Shapes:
    """The trained turns of conversations, with one tokenizer and one way of finding them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, find: Find) -> None:
        self.tokenizer, self.find = tokenizer, find
        self.compiled = compiled(tokenizer)
        self.asked = asked(syntax(tokenizer), filter(None, [invited_with(tokenizer)]))
        self.shapes: dict[Any, Shape | None] = {}

    def __call__(self, conversation: Conversation) -> Rendered:
        """The text of a conversation, and its trained turns.

        Raises:
            RowError: the template refuses the conversation.
            UserError: the turns cannot be proved.
        """
        values = _texts(conversation)
        if not self.asked(values) and (shape := self._shape(conversation)):
            text = shape.render(conversation)
            # Many templates strip what is said.
            fitted = shape.fitted(text, values) or shape.fitted(text, [value.strip() for value in values])
            if fitted:
                return fitted
        found = check_said(self.find(self.tokenizer, conversation), conversation)
        return replace(found, lost=tuple(lost(conversation, found.text)))

    def _shape(self, conversation: Conversation) -> Shape | None:
        key = _key(conversation)
        shape = self.shapes.get(key)
        if shape or key is None or key in self.shapes:
            return shape
        if len(self.shapes) >= MOST_SHAPES:
            self.shapes.clear()
        try:
            shape = self._searched(_worded(conversation))
        except (RowError, UserError):
            shape = None
        self.shapes[key] = shape
        return shape

    def _searched(self, worded: Conversation) -> Shape | None:
        """The shape of a conversation of words; None where a turn begins or ends within one."""
        found = check_said(self.find(self.tokenizer, worded), worded)
        has_reasoning = any(not message.keys().isdisjoint(FIELDS["reasoning"]) for message in worded.messages)
        is_same = not has_reasoning and self.compiled(worded) == found.text
        renders = self.compiled if is_same else partial(render, self.tokenizer)
        split, words = WORD.split(found.text), [word.span() for word in WORD.finditer(found.text)]
        turns = []
        for turn in found.turns:
            positions = [turn.prompt, *(position for span in turn.spans for position in span)]
            places = [_place(position, words) for position in positions]
            if None in places:
                return None
            turns.append((turn.message, tuple(place for place in places if place)))
        frame = "%s".join(piece.replace("%", "%%") for piece in split[::2])
        return Shape(renders, frame, tuple(map(int, split[1::2])), tuple(turns), tuple(lost(worded, found.text)))


def _place(position: int, words: Sequence[Span]) -> tuple[int, int] | None:
    """The place of a character; None within a word."""
    before = [end - start for start, end in words if end <= position]
    if any(start < position < end for start, end in words):
        return None
    return len(before), position - sum(before)


def _key(conversation: Conversation) -> Any:
    """What decides the shape: roles, fields, which are empty, and every value that is no text."""
    kinds: list[Any] = []
    for message in conversation.messages:
        kinds.append((message["role"], len(message)))
        for field, value in message.items():
            if isinstance(value, str):
                kinds += (field, field == "role" or bool(value))
            elif isinstance(value, list | dict):
                return None
            else:
                kinds += (field, repr(value))
    return tuple(kinds), conversation.trained, str(conversation.tools)


def _texts(conversation: Conversation) -> list[str]:
    """The texts of a conversation in order, which a shape has words in place of."""
    return [v for message in conversation.messages for f, v in message.items() if f != "role" and isinstance(v, str)]


def _worded(conversation: Conversation) -> Conversation:
    """The conversation with a word of ours in place of each text that says something."""
    count, messages = 0, []
    for message in conversation.messages:
        worded = dict(message)
        for field, value in message.items():
            if field != "role" and isinstance(value, str):
                worded[field] = f"qz{count}zq" if value else value
                count += 1
        messages.append(worded)
    return replace(conversation, messages=messages)
