"""Which tokens of a conversation are trained, decided on token ids and proved; without proof, an error.

`turns` finds what the assistant says as characters, `cuts` proves that these are whole tokens: the text before a turn
and the text up to its end, each tokenized alone, give the first tokens of the whole. Here a policy is laid over them.
Padding plays no part: it is masked by position, in the collator.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from finetune.config.suggest import did_you_mean
from finetune.config.task import IGNORED, RowError
from finetune.data.conversations import Conversation, Message
from finetune.data.cuts import Cuts, Tokenized
from finetune.data.inner import left_out
from finetune.data.shapes import Shapes
from finetune.data.templates import added_tokens, begins_twice, has_markers, terminators
from finetune.data.turns import Find, Span, Turn, by_boundaries, by_markers, by_prefixes
from finetune.errors import UserError
from finetune.models.fast_tokens import IDS, Ids

Mask = Literal["assistant", "last_turn", "completion", "all", "per_turn"]
Eos = Literal["every_turn", "last", "none"]
Stopped = tuple[Turn, int]
"""A turn, and the character behind its end-of-turn token; 0 where it has none."""


@dataclass(frozen=True)
class Labelled:
    """One row: its token ids, and labels of the same length, -100 where nothing is trained."""

    input_ids: Ids
    labels: Ids
    lost: tuple[str, ...] = ()
    """What of the conversation the template left out, in words."""


@dataclass(frozen=True)
class Policy:
    """What of the chosen turns is trained."""

    whole: bool = False
    """Every token of the row."""
    eos: Eos = "every_turn"
    left: tuple[str, ...] = ()
    """Parts of a turn that are not trained: reasoning, tool_calls."""
    boundaries: dict[str, str] | None = None
    """What a turn starts and ends with, as the recipe declares it."""
    stops: tuple[int, ...] = ()
    """Tokens that end a turn besides the template's own, from the model's generation config."""


def chosen(messages: Sequence[Message], mask: Mask, answer: int = 0, field: str = "weight") -> tuple[int, ...]:
    """The messages of the assistant that a mask trains.

    Args:
        answer: the first message of the completion.
        field: of each message, for `per_turn`.
    Raises:
        RowError: a message that is not the assistant's is to be trained.
        UserError: a turn is to be trained by a share.
    """
    said = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    if mask == "completion":
        return tuple(at for at in said if at >= answer)
    if mask == "per_turn":
        return tuple(at for at, message in enumerate(messages) if _is_trained(message, field))
    return tuple(said[-1:] if mask == "last_turn" else said)


def _is_trained(message: Message, field: str) -> bool:
    """By the field of the message; without it, what the assistant says is trained."""
    said = message["role"] == "assistant"
    value = message.get(field, said)
    if value not in (0, 1):
        raise UserError(f"{field}={value!r} of a message of {message['role']}: write 0 or 1, false or true")
    if value and not said:
        raise RowError(f"{field}={value!r} of a message of {message['role']}: only what the assistant says is trained")
    return bool(value)


def check_field(conversations: Any, field: str) -> None:
    """Refuse a field that no message has.

    Args:
        conversations: lists of messages.
    Raises:
        UserError: naming the fields that messages have.
    """
    seen: set[str] = set()
    for turns in conversations:
        said = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
        seen.update(name for turn in said for name, value in turn.items() if value is not None)
        if field in seen:
            return
    hint = did_you_mean(field, seen)
    raise UserError(f"task.turn_weight={field}: messages have the fields {', '.join(sorted(seen))}. {hint}".rstrip())


def label_text(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Labelled]:
    """Plain texts: every token is trained, and each text ends with the end-of-sequence token.

    Raises:
        UserError: the tokenizer has no such token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token, so the model could not learn to stop")
    rows = [_begun_once(ids, tokenizer.bos_token_id) for ids in tokenizer(list(texts))["input_ids"]]
    ended = [ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id] for ids in rows]
    return [Labelled(array(IDS, ids), array(IDS, ids)) for ids in ended]


def _begun_once(ids: list[int], bos: int | None) -> list[int]:
    """A text that is written with its first special token gets no second one."""
    return ids[1:] if begins_twice(ids, bos) else ids


class Labeler:
    """Labels conversations with one tokenizer; holds what was proved once, for the rows to come.

    Raises:
        UserError: the template ends a turn with no token that a model could stop at.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, policy: Policy) -> None:
        self.tokenizer, self.policy = tokenizer, policy
        self.bos = tokenizer.bos_token_id
        self.cuts = Cuts(tokenizer)
        own, texts = terminators(tokenizer), added_tokens(tokenizer)
        # The template's own first: a model may also stop at tokens that stand within a turn.
        self.stops = ([texts[stop] for stop in own], [texts[s] for s in policy.stops if s in texts and s not in own])
        self.shapes = Shapes(tokenizer, self._way())

    def _way(self) -> Find:
        """How turns are found: as the recipe declares, by the template's markers, or by prefixes."""
        if self.policy.boundaries:
            return by_boundaries(self.policy.boundaries["start"], self.policy.boundaries["end"])
        if has_markers(self.tokenizer):
            return by_markers(list(added_tokens(self.tokenizer).values()))
        return by_prefixes(self.stops[0])

    def __call__(self, conversations: Sequence[Conversation]) -> list[Labelled]:
        """Token ids and labels.

        Raises:
            RowError: the template refuses a conversation, or one of its turns has no tokens of its own.
            UserError: the trained span of a row cannot be proved, or would miss its end-of-turn token.
        """
        rendered = [self.shapes(conversation) for conversation in conversations]
        ids = self.cuts.encode([each.text for each in rendered])
        rows = [Tokenized(each.text, tokens) for each, tokens in zip(rendered, ids, strict=True)]
        stopped = [[(turn, self._end(each.text, turn)) for turn in each.turns] for each in rendered]
        self.cuts.learn(
            (row, at)
            for row, turns in zip(rows, stopped, strict=True)
            for turn, end in turns
            for at in (turn.start, end)
        )
        labels = [self._labels(*each) for each in zip(conversations, rows, stopped, strict=True)]
        self.cuts.forget()
        return [Labelled(*each) for each in zip(ids, labels, (each.lost for each in rendered), strict=True)]

    def _end(self, text: str, turn: Turn) -> int:
        """The character behind the end-of-turn token, or 0: what follows it is the template's, not the model's."""
        for stops in self.stops:
            ends = (_behind(text, stop, span) for span in turn.spans for stop in stops)
            if last := max(ends, default=0):
                return last
        return 0

    def _labels(self, conversation: Conversation, row: Tokenized, turns: Sequence[Stopped]) -> Ids:
        if begins_twice(row.ids, self.bos):
            raise UserError(f"the rendered conversation begins with {self.tokenizer.bos_token} twice")
        if self.policy.whole:
            return row.ids[:]
        labels = ignored(len(row.ids))
        for number, (turn, stop) in enumerate(turns, 1):
            for start, end in self._spans(row, turn, stop, is_last=number == len(turns)):
                labels[start:end] = row.ids[start:end]
            for start, end in self._left_out(conversation, row, turn):
                labels[start:end] = ignored(end - start)
        return labels

    def _spans(self, row: Tokenized, turn: Turn, stop: int, is_last: bool) -> list[tuple[int, int]]:
        """The tokens of a turn, with its end-of-turn token where that is trained."""
        if not stop and self.policy.eos != "none":
            raise UserError("an assistant turn is rendered without its end-of-turn token")
        found = [
            (self._at(row, start), self._at(row, min(end, stop or end)))
            for start, end in [(self._begin(row, turn), turn.spans[0][1]), *turn.spans[1:]]
            if not stop or start < stop
        ]
        if stop and (self.policy.eos == "none" or (self.policy.eos == "last" and not is_last)):
            found[-1] = (found[-1][0], found[-1][1] - 1)
        return found

    def _begin(self, row: Tokenized, turn: Turn) -> int:
        """Behind the prompt; where that is within a token, at the start that the template marks."""
        return turn.spans[0][0] if self.cuts.at(row, turn.start) is None else turn.start

    def _at(self, row: Tokenized, position: int) -> int:
        proved = self.cuts.at(row, position)
        if proved is None:
            raise RowError("an assistant turn shares a token with the text around it, as with a space at its start")
        return proved

    def _left_out(self, conversation: Conversation, row: Tokenized, turn: Turn) -> list[tuple[int, int]]:
        """The tokens of the parts of a turn that are not trained."""
        if not self.policy.left:
            return []
        parts = left_out(self.tokenizer, conversation, row.text, turn, self.policy.left)
        return [self._part(row, turn, spans) for spans in parts]

    def _part(self, row: Tokenized, turn: Turn, spans: Sequence[Span]) -> tuple[int, int]:
        """The tokens of the first span that begins and ends between tokens; else all that hold a character of one."""
        for start, end in spans:
            first, last = self.cuts.at(row, start), self.cuts.at(row, end)
            if first is not None and last is not None:
                return first, last
        start, end = min(spans)
        return self._outward(row, start, -1, turn.spans[0][0]), self._outward(row, end, 1, turn.end)

    def _outward(self, row: Tokenized, position: int, step: int, limit: int) -> int:
        """The nearest place between two tokens, away from the part."""
        for at in range(position, limit + step, step):
            if (proved := self.cuts.at(row, at)) is not None:
                return proved
        raise RowError("what is not to be trained of a turn shares a token with the text around the turn")


def ignored(count: int) -> Ids:
    """The labels of tokens that are not trained."""
    return array(IDS, [IGNORED]) * count


def _behind(text: str, stop: str, span: tuple[int, int]) -> int:
    """The character behind the last occurrence of a token in a span, or 0."""
    at = text.rfind(stop, *span)
    return at + len(stop) if at >= 0 else 0
