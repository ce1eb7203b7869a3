"""What a chat template makes of a conversation: its text, its markers, the tokens that end a turn, its headers.

Knows text and a tokenizer's special tokens. Which tokens are trained is decided in `labels`.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial, wraps
from itertools import takewhile
from typing import Any, ParamSpec, TypeVar, cast

from jinja2 import Environment, TemplateError, nodes
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from finetune.config.task import RowError
from finetune.data import rendering
from finetune.data.conversations import Conversation, Message
from finetune.errors import UserError

MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
MARKERS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
# Words that no template writes and that none of the libraries' filters changes.
QUESTION, ANSWER = "qzaskedzq", "qzsaidzq"
REFUSALS = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""How templates fail on a conversation that they were not written for."""
P = ParamSpec("P")
R = TypeVar("R")


def _refusing(rendering: Callable[P, R]) -> Callable[P, R]:
    """The same, with what a template fails by told of the row."""

    @wraps(rendering)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return rendering(*args, **kwargs)
        except REFUSALS as error:
            raise RowError(f"the chat template refuses the conversation: {error}") from None

    return told


@_refusing
def render(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, prompt: bool = False) -> str:
    """The text of a conversation; `prompt` adds what invites the assistant to speak.

    Raises:
        RowError: the template refuses the conversation.
    """
    messages: Any = list(conversation.messages)
    return str(
        tokenizer.apply_chat_template(messages, tools=conversation.tools, tokenize=False, add_generation_prompt=prompt)
    )


def compiled(tokenizer: PreTrainedTokenizerBase) -> Callable[[Conversation], str]:
    """`render` without what upstream looks up, copies and completes for each conversation: half of its time.

    The same text where upstream adds no field to the messages, as it does where they have reasoning.
    """
    program = rendering.program(template(tokenizer))
    if program is None:
        return partial(render, tokenizer)
    known = {**program.globals, "documents": None, "add_generation_prompt": False, **tokenizer.special_tokens_map}

    @_refusing
    def rendered(conversation: Conversation) -> str:
        own = {"messages": conversation.messages, "tools": conversation.tools}
        return "".join(program.root_render_func(program.new_context(known | own, shared=True)))

    return rendered


@_refusing
def marked(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and the character spans that the template marks with `{% generation %}`.

    Raises:
        RowError: the template refuses the conversation.
    """
    rendered: Any = render_jinja_template(
        [list(conversation.messages)],
        tools=cast(Any, conversation.tools),
        chat_template=template(tokenizer),
        return_assistant_tokens_mask=True,
        **cast(dict[str, Any], tokenizer.special_tokens_map),
    )
    (text,), (spans,) = rendered
    return text, [(start, end) for start, end in spans if start < end]


def template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template that conversations are rendered with.

    Raises:
        UserError: the tokenizer has none.
    """
    if not tokenizer.chat_template:
        raise UserError("the tokenizer has no chat template; write tokenizer.chat_template=FILE.jinja")
    return tokenizer.get_chat_template()


def syntax(tokenizer: PreTrainedTokenizerBase) -> nodes.Template:
    """The template as Jinja reads it, without its markers, which are upstream's own."""
    return Environment(extensions=["jinja2.ext.loopcontrols"]).parse(MARKERS.sub("", template(tokenizer)))


def invited_with(tokenizer: PreTrainedTokenizerBase) -> str:
    """What invites the assistant to speak and is not what an answer begins with: empty for most templates."""
    try:
        text, before = render(tokenizer, Conversation(_CHAT)), render(tokenizer, Conversation(_CHAT[:1]), prompt=True)
    except RowError:
        return ""
    rest = before[shared(text, before) :]
    return rest.strip() or rest


def has_markers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template says itself what the assistant generates."""
    return bool(MARKER.search(template(tokenizer)))


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that text is cut at before anything else, id to text; the unknown token is none of them."""
    found = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return {number: text for number, text in {**dict(special), **found}.items() if number != tokenizer.unk_token_id}


def terminators(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an assistant turn, found by rendering one alone and one that is followed by another turn.

    What both share after the answer is the turn's own: its last special token ends the turn. Where they share none,
    as with a template that ends the last turn differently, each has its own.

    Raises:
        UserError: there is no template, or it ends a turn with no special token, so a model would never learn to stop.
    """
    alone = _after_answer(tokenizer, _CHAT)
    try:
        followed = _after_answer(tokenizer, [*_CHAT, _CHAT[0]])
    except UserError:  # a template that rewrites earlier turns, or takes one question only
        followed = alone
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(alone, followed, strict=False))
    known = added_tokens(tokenizer)
    if common := [token for token, _ in alike if token in known]:
        return common[-1:]
    firsts = [next((token for token in tail if token in known), None) for tail in (alone, followed)]
    found = sorted({token for token in firsts if token is not None})
    if firsts[0] is None:
        raise UserError(
            f"the chat template ends an assistant turn with {tokenizer.decode(alone)!r}, which holds no special "
            "token, so the model could not learn to stop. Add {{ eos_token }} to the template "
            "(tokenizer.chat_template=FILE.jinja)."
        )
    return found


_CHAT: list[Message] = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]


def _after_answer(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message]) -> list[int]:
    """The tokens behind the answer; templates of models that see take content in parts."""
    template(tokenizer)
    refused = "the template leaves out what is said"
    for messages in (chat, [{**message, "content": _parts(message["content"])} for message in chat]):
        try:
            _, said, tail = render(tokenizer, Conversation(list(messages))).partition(ANSWER)
        except RowError as error:
            refused = str(error)
            continue
        if said:
            return list(tokenizer(tail, add_special_tokens=False)["input_ids"])
    raise UserError(f"a question with its answer cannot be rendered: {refused}")


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def headers(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The ids of what announces a message, by role, from its last special token on; for showing, not for training.

    A role that the template does not render, or announces with no special token, has none.
    """
    known, found = added_tokens(tokenizer), {}
    for role, before in (("system", []), ("user", []), ("assistant", _CHAT[:1]), ("tool", _CHAT)):
        try:
            text = render(tokenizer, Conversation([*before, {"role": role, "content": "qzherezq"}]))
        except RowError:
            continue
        head, spoken, _ = text.partition("qzherezq")
        ids = list(tokenizer(head, add_special_tokens=False)["input_ids"]) if spoken else []
        starts = [at for at, token in enumerate(ids) if token in known]
        if starts:
            found[role] = ids[starts[-1] :]
    return found


def begins_twice(ids: Sequence[int], bos: int | None) -> bool:
    """Whether a text begins with two first tokens, as where a template and a tokenizer both add one."""
    return bos is not None and list(ids[:2]) == [bos, bos]


def shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common; by halving, because comparing slices is quick."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


def lost(conversation: Conversation, text: str) -> Iterable[str]:
    """What of a conversation its text does not hold: `content of tool not rendered`."""
    for message in conversation.messages:
        for field, value in message.items():
            if field not in UNSAID and not all(_is_in(part, text) for part in _leaves(value)):
                yield f"{field} of {message['role']} not rendered"


UNSAID = frozenset({"role", "id", "tool_call_id", "type", "weight", "train"})
"""Fields that say something about a message, or name it; templates leave them out."""


def _leaves(value: Any) -> Iterable[str]:
    """Every text of a field, the keys and values of tool calls among them."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in UNSAID:
                yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, str):
        yield value


def _is_in(part: str, text: str) -> bool:
    stripped = part.strip()
    return stripped in text or _escaped(stripped) in text


def _escaped(text: str) -> str:
    """As JSON writes it."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
