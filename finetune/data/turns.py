"""Where the assistant speaks in a rendered conversation: spans of characters, each found in one of three ways.

  boundaries  the recipe declares what a turn begins and ends with
  markers     the template marks what the assistant says with `{% generation %}`
  prefixes    the conversation is rendered up to the turn, and the whole begins with that text

Knows characters. That a span is whole tokens is proved in `cuts`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from finetune.config.task import RowError
from finetune.data.conversations import Conversation, Message
from finetune.data.templates import marked, render, shared
from finetune.errors import UserError

REWRITTEN = (
    "the conversation up to an assistant turn is not a prefix of the whole once rendered, so which tokens the "
    "assistant says cannot be proved. The template rewrites earlier turns: write task.mask=last_turn, or a "
    "template with {% generation %} markers."
)
INVITED = (
    "the template invites the assistant to speak with {prompt!r}, which is not what an answer begins with in a whole "
    "conversation, so which tokens the assistant says cannot be proved. Take a template with {{% generation %}} "
    "markers, or declare task.boundaries"
)
UNSAID = (
    "the template does not write what the assistant says where its turn is, so which tokens it says cannot be proved. "
    "Templates of models that see expect content as a list of parts: [{type: text, text: …}]"
)
Span = tuple[int, int]


@dataclass(frozen=True)
class Turn:
    """What the assistant says in one message: spans of characters, the last one up to the end of the turn."""

    message: int
    spans: tuple[Span, ...]
    prompt: int
    """Where the text that invites the assistant to speak ends, as a model is asked; 0 where that cannot be told."""

    @property
    def start(self) -> int:
        """Behind the prompt: a template may mark what a model is asked with as well."""
        start, end = self.spans[0]
        return self.prompt if start <= self.prompt < end else start

    @property
    def end(self) -> int:
        """The end of the last span."""
        return self.spans[-1][1]


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, the turns in it that are trained, and what the text leaves out."""

    text: str
    turns: tuple[Turn, ...]
    lost: tuple[str, ...] = ()


Find = Callable[[PreTrainedTokenizerBase, Conversation], Rendered]


def check_said(rendered: Rendered, conversation: Conversation) -> Rendered:
    """The same, if the turns hold what their messages say.

    Raises:
        UserError: one does not.
    """
    for turn in rendered.turns:
        message = conversation.messages[turn.message]
        if isinstance(message.get("content"), str) and not _holds(rendered.text[turn.start : turn.end], message):
            raise UserError(UNSAID)
    return rendered


def _holds(text: str, message: Message) -> bool:
    """Whether a text holds what a message says, which may be nothing; templates leave out what is only thought."""
    return str(message.get("content", "")).rpartition("</think>")[2].strip() in text


def by_prefixes(stops: Sequence[str]) -> Find:
    """Turns by rendering the conversation up to each.

    Args:
        stops: the tokens that end a turn. The text behind the end may differ once another turn follows, and so may the
            token itself where a template has one for the last turn; what the assistant says may not.
    """

    def find(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> Rendered:
        text, messages = render(tokenizer, conversation), conversation.messages
        turns = []
        for at in conversation.trained:
            if at == 0:
                raise RowError("the first message is the assistant's, and nothing before it invites it to speak")
            start = _prompted(tokenizer, conversation, at, text)
            if not start:
                raise UserError(_why(tokenizer, conversation, at, text))
            upto = render(tokenizer, replace(conversation, messages=messages[: at + 1]))
            end = len(upto) if text.startswith(upto) else _closed(text, upto, stops)
            if not text.startswith(upto) and not (text[start:end] and _holds(text[start:end], messages[at])):
                raise UserError(REWRITTEN)
            turns.append(Turn(at, ((start, end),), start))
        return Rendered(text, tuple(turns))

    return find


def _prompted(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, at: int, text: str) -> int:
    """Where message `at` begins: behind what a model is asked with, if the text begins with that; else 0."""
    if not at:
        return 0
    before = render(tokenizer, replace(conversation, messages=conversation.messages[:at]), prompt=True)
    return len(before) if text.startswith(before) else 0


def _why(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, at: int, text: str) -> str:
    """Why the text before a message is no prefix: earlier turns differ, or only the invitation does."""
    before = replace(conversation, messages=conversation.messages[:at])
    bare, invited = render(tokenizer, before), render(tokenizer, before, prompt=True)
    if text.startswith(bare) and invited.startswith(bare):
        return INVITED.format(prompt=invited[len(bare) :])
    return REWRITTEN


def _closed(text: str, upto: str, stops: Sequence[str]) -> int:
    """The end of what two texts share, and of the token that ends a turn in each where they part within it."""
    end = shared(text, upto)
    for begin in range(max(0, end - max(map(len, stops))), end + 1):
        here = [stop for stop in stops if text.startswith(stop, begin)]
        if here and any(upto.startswith(stop, begin) for stop in stops):
            return max(end, begin + len(here[0]))
    return end


def by_markers(added: Sequence[str]) -> Find:
    """Turns by the template's own markers.

    Args:
        added: the added tokens. Some templates mark the invitation as well, which a model is asked with and does not
            say; where a whole conversation has only a part of it, that part ends with such a token.
    """

    def find(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> Rendered:
        text, parts = _marked(tokenizer, conversation)
        turns = []
        for at in conversation.trained:
            prompt = _prompted(tokenizer, conversation, at, text) or _invited(tokenizer, conversation, at, text, added)
            turns.append(Turn(at, parts[at], prompt))
        return Rendered(text, tuple(turns))

    return find


def _marked(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> tuple[str, dict[int, tuple[Span, ...]]]:
    """The text, and the marked spans of each message of the assistant.

    Raises:
        UserError: which of the spans are whose cannot be told.
    """
    text, spans = marked(tokenizer, conversation)
    said = [at for at, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    ends = list(range(1, len(said) + 1)) if len(spans) == len(said) else _counted(tokenizer, conversation, said)
    parts = {at: tuple(spans[first:end]) for at, first, end in zip(said, [0, *ends], ends, strict=False)}
    if not all(parts.values()):
        raise UserError(
            f"the template marks {len(spans)} spans with {{% generation %}} for {len(said)} assistant messages, and "
            "which are whose cannot be proved"
        )
    return text, parts


def _invited(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, at: int, text: str, added: Sequence[str]
) -> int:
    """The end of the added token that ends what a text has of an invitation; 0 where it has none of it."""
    before = replace(conversation, messages=conversation.messages[:at])
    if not at or not text.startswith(bare := render(tokenizer, before)):
        return 0
    end = shared(text, render(tokenizer, before, prompt=True))
    ends = (begin + len(token) for token in added if (begin := text.rfind(token, len(bare), end)) >= 0)
    return max(ends, default=0)


def _counted(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, said: Sequence[int]) -> list[int]:
    """How many spans there are up to the message after each of the assistant's that is its own again."""
    nexts = [*said[1:], len(conversation.messages)]
    parts = [replace(conversation, messages=conversation.messages[:at]) for at in nexts]
    return [len(marked(tokenizer, part)[1]) for part in parts]


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
        if any(stop < 0 or stop > limit for stop, limit in zip(ends, [*begins[1:], len(text)], strict=False)):
            raise RowError(f"task.boundaries.end={end!r} does not end every assistant message")
        spans = dict(zip(said, zip(begins, ends, strict=True), strict=True))
        turns = (Turn(at, ((spans[at][0], spans[at][1] + len(end)),), spans[at][0]) for at in conversation.trained)
        return Rendered(text, tuple(turns))

    return find
