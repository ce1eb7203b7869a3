"""The turns of many conversations: each shape is searched once, and a row is held against its shape.

A conversation of plain texts is searched with a word of ours in place of each text. A row of that shape is then proved
by one comparison: its text is the template's own text with the row's texts put in, character by character. Where it is
not, as with a template that looks into the texts, the row itself is searched.

Knows characters, and no way of finding turns.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune.config.task import RowError
from finetune.data.conversations import Conversation
from finetune.data.templates import lost, render
from finetune.data.turns import Find, Rendered, Turn, check_said
from finetune.errors import UserError

WORD = re.compile(r"qz(\d+)zq")
MOST_SHAPES = 4096


@dataclass(frozen=True)
class Shape:
    """The text of a template around the texts of a conversation, and where in it the turns are.

    `order[n]` is the text that follows piece n; a place is a piece and an offset in it.
    """

    pieces: tuple[str, ...]
    order: tuple[int, ...]
    turns: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]
    """The message of each turn, and its places: the end of the prompt, then the start and end of each span."""
    lost: tuple[str, ...]

    def fitted(self, text: str, values: Sequence[str]) -> Rendered | None:
        """The turns of a row, if its text is this shape with its values put in."""
        between = [values[slot] for slot in self.order]
        parts = [part for pair in zip(self.pieces, [*between, ""], strict=True) for part in pair]
        if "".join(parts) != text:
            return None
        starts = [0, *accumulate(map(len, parts))][::2]
        turns = []
        for message, places in self.turns:
            flat = [starts[piece] + offset for piece, offset in places]
            turns.append(Turn(message, tuple(zip(flat[1::2], flat[2::2], strict=True)), flat[0]))
        return Rendered(text, tuple(turns), self.lost)


class Shapes:
    """The trained turns of conversations, with one tokenizer and one way of finding them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, find: Find) -> None:
        self.tokenizer, self.find = tokenizer, find
        self.shapes: dict[Any, Shape | None] = {}

    def __call__(self, conversation: Conversation) -> Rendered:
        """The text of a conversation, and its trained turns.

        Raises:
            RowError: the template refuses the conversation.
            UserError: the turns cannot be proved.
        """
        shape = self._shape(conversation)
        if shape:
            text, values = render(self.tokenizer, conversation), _texts(conversation)
            # Many templates strip what is said.
            for fit in (values, [value.strip() for value in values]):
                if rendered := shape.fitted(text, fit):
                    return rendered
        found = check_said(self.find(self.tokenizer, conversation), conversation)
        return replace(found, lost=tuple(lost(conversation, found.text)))

    def _shape(self, conversation: Conversation) -> Shape | None:
        key = _key(conversation)
        if key is None:
            return None
        if key not in self.shapes:
            if len(self.shapes) >= MOST_SHAPES:
                self.shapes.clear()
            try:
                self.shapes[key] = _searched(self.find, self.tokenizer, _worded(conversation))
            except (RowError, UserError):
                self.shapes[key] = None
        return self.shapes[key]


def _key(conversation: Conversation) -> Any:
    """What decides the shape: roles, fields, which are empty, and every value that is no text."""
    kinds = []
    for message in conversation.messages:
        if any(isinstance(value, list | dict) for value in message.values()):
            return None
        kinds.append((message["role"], *((field, _kind(field, value)) for field, value in message.items())))
    return tuple(kinds), conversation.trained, str(conversation.tools)


def _kind(field: str, value: Any) -> Any:
    return bool(value) if isinstance(value, str) and field != "role" else repr(value)


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


def _searched(find: Find, tokenizer: PreTrainedTokenizerBase, worded: Conversation) -> Shape | None:
    """The shape of a conversation of words; None where a turn begins or ends within one."""
    found = check_said(find(tokenizer, worded), worded)
    split = WORD.split(found.text)
    pieces, order = tuple(split[::2]), tuple(map(int, split[1::2]))
    starts = [0, *(word.end() for word in WORD.finditer(found.text))]
    turns = []
    for turn in found.turns:
        positions = [turn.prompt, *(position for span in turn.spans for position in span)]
        places = [_place(position, starts, pieces) for position in positions]
        if None in places:
            return None
        turns.append((turn.message, tuple(place for place in places if place)))
    return Shape(pieces, order, tuple(turns), tuple(lost(worded, found.text)))


def _place(position: int, starts: Sequence[int], pieces: Sequence[str]) -> tuple[int, int] | None:
    for piece, start in enumerate(starts):
        if start <= position <= start + len(pieces[piece]):
            return piece, position - start
    return None
