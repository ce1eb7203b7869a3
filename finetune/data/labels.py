"""Which tokens of a conversation are trained, decided on token ids and proved; without proof, an error.

Two ways to find the text before an assistant turn and the text up to its end, in this order:
  markers   the template marks what the assistant says with `{% generation %}`
  prefixes  the conversation is rendered up to the turn
One proof for both: the tokens of each of these texts, tokenized alone, are the first tokens of the whole.
Padding plays no part here: it is masked by position, in the collator.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from finetune.config.task import RowError
from finetune.data.conversations import Message
from finetune.data.shards import IGNORED
from finetune.errors import UserError

SENTINEL = "finetune"
MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Labelled:
    """One row: its token ids, and labels of the same length, -100 where nothing is trained."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Rendered:
    """The text of a conversation, and for each trained turn the text before it and the text up to its end."""

    whole: str
    turns: list[tuple[str, str]]

    @property
    def texts(self) -> list[str]:
        """All texts, the whole one first."""
        return [self.whole, *chain.from_iterable(self.turns)]


def terminator(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an assistant turn, found by rendering one.

    Raises:
        UserError: there is no template, or it ends a turn with no special token, so a model would never learn to stop.
    """
    if not tokenizer.chat_template:
        raise UserError("the tokenizer has no chat template; write tokenizer.chat_template=FILE.jinja")
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": SENTINEL}]
    try:
        tail = render(tokenizer, turns).rpartition(SENTINEL)[2]
    except RowError as error:
        raise UserError(f"a question with its answer cannot be rendered: {error}") from None
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} - {tokenizer.unk_token_id}
    for token in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if token in special:
            return int(token)
    raise UserError(
        f"the chat template ends an assistant turn with {tail!r}, which holds no special token, so the model could "
        "not learn to stop. Add {{ eos_token }} to the template (tokenizer.chat_template=FILE.jinja)."
    )


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prompt: bool = False) -> str:
    """The text of a conversation; `prompt` adds what invites the assistant to speak.

    Raises:
        RowError: the template refuses the conversation.
    """
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))
    except (TemplateError, TypeError) as error:
        raise RowError(f"the chat template refuses the conversation: {error}") from None


def has_markers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template says itself what the assistant generates."""
    return bool(MARKER.search(tokenizer.get_chat_template()))


def label_text(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Labelled]:
    """Plain texts: every token is trained, and each text ends with the end-of-sequence token.

    Raises:
        UserError: the tokenizer has no such token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token, so the model could not learn to stop")
    rows = [_begun_once(ids, tokenizer.bos_token_id) for ids in tokenizer(list(texts))["input_ids"]]
    ended = [ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id] for ids in rows]
    return [Labelled(ids, list(ids)) for ids in ended]


def _begun_once(ids: list[int], bos: int | None) -> list[int]:
    """A text that is written with its first special token gets no second one."""
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def label(conversations: Sequence[Sequence[Message]], tokenizer: PreTrainedTokenizerBase, mask: str) -> list[Labelled]:
    """Token ids and labels of conversations.

    Args:
        mask: `assistant` trains every assistant turn, `last_turn` the last one, `all` every token.
    Raises:
        RowError: the template refuses a conversation, or one of its turns has no tokens of its own.
        UserError: the trained span of a row cannot be proved, or would miss its end-of-turn token.
    """
    if mask == "all":
        rows = _tokenize(tokenizer, [render(tokenizer, conversation) for conversation in conversations])
        return [Labelled(ids, list(ids)) for ids in rows]
    stop = terminator(tokenizer)
    find = _marked if has_markers(tokenizer) else _prefixed
    rendered = [find(conversation, tokenizer, mask == "last_turn") for conversation in conversations]
    tokenized = iter(_tokenize(tokenizer, [text for row in rendered for text in row.texts]))
    return [_labelled(row, [next(tokenized) for _ in row.texts], stop) for row in rendered]


def _prefixed(conversation: Sequence[Message], tokenizer: PreTrainedTokenizerBase, last_only: bool) -> Rendered:
    """Turns by rendering the conversation up to each."""
    turns = [at for at, message in enumerate(conversation) if message["role"] == "assistant"]
    if turns[:1] == [0]:
        raise RowError("the first message is the assistant's, and nothing before it invites it to speak")
    around = [
        (render(tokenizer, conversation[:at], prompt=True), render(tokenizer, conversation[: at + 1]))
        for at in (turns[-1:] if last_only else turns)
    ]
    return Rendered(render(tokenizer, conversation), around)


def _marked(conversation: Sequence[Message], tokenizer: PreTrainedTokenizerBase, last_only: bool) -> Rendered:
    """Turns by the template's own markers."""
    try:
        rendered: Any = render_jinja_template(
            [list(conversation)],
            chat_template=tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **cast(dict[str, Any], tokenizer.special_tokens_map),
        )
    except (TemplateError, TypeError) as error:
        raise RowError(f"the chat template refuses the conversation: {error}") from None
    (whole,), (spans,) = rendered
    turns = [(start, end) for start, end in spans if start < end]
    return Rendered(whole, [(whole[:start], whole[:end]) for start, end in (turns[-1:] if last_only else turns)])


def _labelled(row: Rendered, tokenized: Sequence[list[int]], stop: int) -> Labelled:
    """Labels for the turns, each cut after its end-of-turn token: what follows is the template's, not the model's."""
    whole, around = tokenized[0], tokenized[1:]
    labels = [IGNORED] * len(whole)
    for before, upto, texts in zip(around[::2], around[1::2], row.turns, strict=True):
        start, end = len(before), len(upto) - upto[::-1].index(stop) if stop in upto else 0
        if whole[:start] != before or whole[:end] != upto[:end]:
            raise _unproved(row.whole, texts)
        if end <= start:
            raise UserError("an assistant turn is rendered without its end-of-turn token")
        labels[start:end] = whole[start:end]
    return Labelled(whole, labels)


def _unproved(whole: str, turn: tuple[str, str]) -> RowError | UserError:
    """Why the tokens of a turn are not to be found in the whole: the text differs, or only its tokens do."""
    if all(whole.startswith(text) for text in turn):
        return RowError("an assistant turn shares a token with the text around it, as with a space at its start")
    return UserError(
        "the conversation up to an assistant turn is not a prefix of the whole once rendered, so which tokens the "
        "assistant says cannot be proved. The template rewrites earlier turns: write task.mask=last_turn, or a "
        "template with {% generation %} markers."
    )


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Rendered text holds its own special tokens; adding them again would double the first one."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return ids
