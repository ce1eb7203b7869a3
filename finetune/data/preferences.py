"""Answers that are compared: two to one prompt, or single ones that are wanted or not, in the layouts people have.

    prompt, chosen, rejected    texts or messages; the answers may repeat the prompt they begin with
    chosen, rejected            messages or texts; the prompt is what both begin with
    prompt, completion, label   one answer, and whether it is wanted

Texts beside a prompt are turns, which the chat template renders; two texts without one are read as they are. A column
`system` is said before the prompt, unless the prompt says it. What the task makes of them is a row of several
sequences, end to end, with the length of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune.config.task import IGNORED, NOTES, RowError
from finetune.data import conversations
from finetune.data.columns import detect
from finetune.data.conversations import Conversation, Message
from finetune.data.labels import Labeler, Labelled, ignored, label_text
from finetune.errors import UserError

PAIR, IMPLICIT, TEXT, SINGLE = "pair", "pair with the prompt in it", "text", "single"
NO_PROMPT = "chosen and rejected begin with no prompt in common"
SAME = "chosen and rejected are the same"
Answer = Conversation | str
"""A conversation whose last turns are trained, or a text as it is."""


@dataclass(frozen=True)
class Limit:
    """Tokens a sequence may have, and the side that a longer one is cut at."""

    tokens: int
    cuts_prompt: bool


def describe(
    names: Sequence[str], columns: dict[str, str], roles: Sequence[str], first: dict[str, Any]
) -> dict[str, Any]:
    """Layout and columns.

    Args:
        names: the columns there are.
        columns: role to column, as the user named them.
        roles: those that the task reads.
        first: a row.
    Raises:
        UserError: a column is missing, or one is named that rows of this layout do not need.
    """
    paired = {columns.get(role, role) for role in ("chosen", "rejected")} <= set(names)
    if not paired and "completion" not in roles and {"completion", "label"} <= set(names):
        raise UserError("rows have one completion with a label, and not chosen and rejected: write task=kto")
    others = ("completion", "label") if paired or "completion" not in roles else ("chosen", "rejected", "margin")
    usual = {role: (role,) for role in roles if role not in others}
    if unread := next((role for role in columns if role not in usual), None):
        raise UserError(f"dataset.columns.{unread} is not read where rows have {', '.join(usual)}")
    found = detect(names, columns, usual, ("system", "tools", "margin", *(["prompt"] if paired else [])))
    if "prompt" in found:
        return {"layout": PAIR if paired else SINGLE, "columns": found}
    if not isinstance(first[found["chosen"]], str):
        return {"layout": IMPLICIT, "columns": found}
    if said := [found[role] for role in ("system", "tools") if role in found]:
        raise UserError(
            f"column {said[0]} is not read where chosen and rejected are texts without a prompt, which nothing "
            "renders. Write them as messages, or leave the column out"
        )
    return {"layout": TEXT, "columns": found}


def pair(row: dict[str, Any], facts: dict[str, Any]) -> tuple[Answer, Answer]:
    """The chosen and the rejected answer to the prompt of a row, each with the prompt before it.

    Raises:
        RowError: there is no prompt, an answer is empty, or both are the same.
    """
    layout, columns = facts["layout"], facts["columns"]
    sides = [row[columns[role]] for role in ("chosen", "rejected")]
    for role, side in zip(("chosen", "rejected"), sides):
        if not side or (isinstance(side, str) and not side.strip()):
            raise RowError(f"{role} is empty")
    if sides[0] == sides[1]:
        raise RowError(SAME)
    if layout == TEXT:
        return conversations.text(row, {"text": columns["chosen"]}), conversations.text(
            row, {"text": columns["rejected"]}
        )
    row = _without_prompt(row, columns)
    chosen, rejected = (turns_of(row, columns[role], "assistant") for role in ("chosen", "rejected"))
    prompt = turns_of(row, columns["prompt"], "user") if "prompt" in columns else []
    if not prompt or chosen[0]["role"] != "assistant":
        prompt = _shared(chosen, rejected, prompt)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    return _answered(row, columns, prompt, chosen), _answered(row, columns, prompt, rejected)


def _without_prompt(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    """The row with what its answers add to the text of its prompt, where both begin with that."""
    prompt, sides = row.get(columns.get("prompt", "")), [columns[role] for role in ("chosen", "rejected")]
    if not isinstance(prompt, str) or not prompt.strip():
        return row
    if not all(isinstance(row[side], str) and row[side].startswith(prompt) for side in sides):
        return row
    return row | {side: row[side][len(prompt) :].lstrip() for side in sides}


def single(row: dict[str, Any], facts: dict[str, Any]) -> Conversation:
    """The answer of a row that has one.

    Raises:
        RowError: prompt or answer is empty, or not written by the assistant.
    """
    columns = facts["columns"]
    prompt, answer = turns_of(row, columns["prompt"], "user"), turns_of(row, columns["completion"], "assistant")
    return _answered(row, columns, prompt, answer)


def turns_of(row: dict[str, Any], column: str, role: str) -> list[Message]:
    """What a column holds as messages; a text is one of the role.

    Raises:
        RowError: naming the column.
    """
    try:
        return conversations.turns(role, row[column])
    except RowError as error:
        raise RowError(f"{column}: {error}") from None


def _shared(chosen: list[Message], rejected: list[Message], prompt: list[Message]) -> list[Message]:
    """What both answers begin with, which must end with the prompt where there is one."""
    same = [one for one, other in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected))]
    while same and same[-1]["role"] == "assistant":  # an answer in common is not asked
        same.pop()
    if not same:
        raise RowError(NO_PROMPT)
    if prompt and same[-len(prompt) :] != prompt:
        raise RowError("the prompt is not what chosen and rejected begin with")
    return same


def _answered(
    row: dict[str, Any], columns: dict[str, str], prompt: list[Message], answer: list[Message]
) -> Conversation:
    if not answer or answer[0]["role"] != "assistant":
        raise RowError("an answer does not begin with a turn of the assistant")
    prompt = conversations.under_system(row.get(columns.get("system", "")), prompt)
    said = (at for at, message in enumerate(answer, len(prompt)) if message["role"] == "assistant")
    return Conversation([*prompt, *answer], conversations.tools(row, columns), tuple(said))


def label_answers(
    pairs: Sequence[tuple[Answer, ...]], tokenizer: PreTrainedTokenizerBase, labeler: Labeler | None
) -> list[tuple[Labelled, ...]]:
    """The tokens of the answers to one prompt each; those of the answers are trained.

    Args:
        labeler: of conversations; None where all are texts.
    Raises:
        RowError: nothing of an answer is trained, or two answers have no prompt in common once they are tokens.
    """
    flat = [answer for answers in pairs for answer in answers]
    labelled = iter(labeler(flat) if labeler else label_text(flat, tokenizer))  # type: ignore[arg-type]
    found = [tuple(next(labelled) for _ in answers) for answers in pairs]
    return [_prompted(answers, tokenizer.bos_token_id, is_text=labeler is None) for answers in found]


def _prompted(answers: tuple[Labelled, ...], bos: int | None, is_text: bool) -> tuple[Labelled, ...]:
    """The same, once it is proved that all answer one prompt; of texts it is what their tokens have in common."""
    if is_text:
        ids = [answer.input_ids for answer in answers]
        length = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(*ids)))
        if not [token for token in ids[0][:length] if token != bos] or length == min(map(len, ids)):
            raise RowError(NO_PROMPT if length < min(map(len, ids)) else SAME)
        return tuple(Labelled(each, ignored(length) + each[length:]) for each in ids)
    if not all(any(label != IGNORED for label in answer.labels) for answer in answers):
        raise RowError("an answer has no token of its own once it is rendered")
    if len({tuple(answer.input_ids[: _begin(answer)]) for answer in answers}) > 1:
        raise RowError("the chat template renders the prompt otherwise for chosen than for rejected")
    return answers


def _begin(answer: Labelled) -> int:
    """The first trained token."""
    return next(at for at, label in enumerate(answer.labels) if label != IGNORED)


def joined(answers: Sequence[Labelled], limit: Limit | None = None) -> dict[str, Any]:
    """The sequences of a row end to end, and how long each is.

    Args:
        limit: what each is cut to. A prompt is cut alike for all answers to it.
    Raises:
        RowError: nothing of an answer, or of the prompt, would be left.
    """
    if limit:
        answers = _cut(answers, limit)
    return {
        "input_ids": [token for answer in answers for token in answer.input_ids],
        "labels": [label for answer in answers for label in answer.labels],
        "seq_lengths": [len(answer.input_ids) for answer in answers],
        NOTES: [note for answer in answers for note in answer.lost],
    }


def _cut(answers: Sequence[Labelled], limit: Limit) -> list[Labelled]:
    over = max(len(answer.input_ids) for answer in answers) - limit.tokens
    if min(map(_begin, answers)) <= over and limit.cuts_prompt:
        raise RowError(f"longer than {limit.tokens} tokens without its prompt")
    window = slice(over, None) if limit.cuts_prompt else slice(limit.tokens)
    found = [Labelled(answer.input_ids[window], answer.labels[window], answer.lost) for answer in answers]
    if any(all(label == IGNORED for label in answer.labels) for answer in found):
        raise RowError(f"the prompt alone has {limit.tokens} tokens or more")
    return found


def wanted(value: Any, index: int) -> int:
    """A label as 1 for an answer that is wanted, 0 for one that is not.

    Raises:
        RowError: there is none.
        UserError: it says neither.
    """
    if value is None:
        raise RowError("no label")
    if isinstance(value, bool | int | float) and value in (0, 1):
        return int(value)
    said = {"true": 1, "false": 0, "1": 1, "0": 0}.get(str(value).strip().lower())
    if said is None:
        raise UserError(f"row {index}: label {value!r} says neither that the answer is wanted, true, nor not, false")
    return said


def margin(value: Any, index: int) -> float:
    """By how much an answer is better.

    Raises:
        UserError: it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise UserError(f"row {index}: margin {value!r} is no number")
    return float(value)
