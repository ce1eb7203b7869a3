"""Answers that are stretches of a context: how rows hold them, and where in the context they are.

Knows characters. Cheap to import; knows no tokens and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.config.task import RowError
from finetune.data.columns import text as text_of
from finetune.errors import UserError

Place = tuple[int, int]
"""Where a stretch of a text begins, and the character behind it."""
Said = tuple[str, int | None]
"""The text of an answer, and where the data says it begins."""
PAIR = ("question", "context")
NONE = "questions without an answer"
FOUND = "answers found by their text, which occurs once"
NOT_THERE = "the answer is not in the context"
UNCLEAR = "the answer occurs more than once in the context, and not at its answer_start"


@dataclass(frozen=True)
class Answered:
    """A question, its context, and where the answer is in it."""

    question: str
    context: str
    place: Place | None
    """None where there is no answer."""
    notes: tuple[str, ...]
    """What is worth counting of it."""


def asked(row: dict[str, Any], columns: dict[str, str]) -> tuple[str, str]:
    """The question and the context of a row.

    Raises:
        RowError: one of them is missing.
    """
    return text_of(row, columns["question"]).strip(), text_of(row, columns["context"])


def pair(item: Any, number: int, columns: dict[str, str]) -> tuple[str, str]:
    """The question and the context of an input, under the names of the columns or of their roles.

    Raises:
        UserError: it is something else.
    """
    names = {role: columns.get(role, role) for role in PAIR}
    row = {role: item.get(names[role], item.get(role)) for role in PAIR} if isinstance(item, dict) else {}
    try:
        return asked(row, dict(zip(PAIR, PAIR)))
    except RowError as error:
        raise UserError(f"input {number}: {error}; a row has {' and '.join(names.values())}") from None


def of_row(row: dict[str, Any], columns: dict[str, str], index: int) -> list[Said]:
    """The answers of a row; none where its question has no answer.

    Raises:
        UserError: they are something else.
    """
    try:
        return said(row[columns["answers"]], row.get(columns.get("answer_start", "")))
    except UserError as error:
        raise UserError(f"row {index}: {error}") from None


def said(answers: Any, starts: Any = None) -> list[Said]:
    """The answers of a row; none where its question has no answer.

    Args:
        answers: `text` and `answer_start` in a mapping of lists, as SQuAD has them, or in a list of mappings; or one
            text or a list of texts, which begin at `starts`.
    Raises:
        UserError: they are something else.
    """
    if isinstance(answers, list) and answers and isinstance(answers[0], dict):
        answers = {name: [each.get(name) for each in answers] for name in ("text", "answer_start")}
    if isinstance(answers, dict):
        answers, starts = answers.get("text"), answers.get("answer_start")
    texts = [_text(text) for text in _listed(answers)]
    places = [_start(start) for start in _listed(starts)] or [None] * len(texts)
    if texts and len(texts) != len(places):
        raise UserError(f"there are {len(texts)} answers, and {len(places)} places where they begin")
    return [(text, start) for text, start in zip(texts, places) if text.strip()]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise UserError(f"the answer {text!r} is not a text")
    return text


def _start(start: Any) -> int | None:
    """A column of integers with gaps is read as fractions, all of them whole; -1 is written where there is none."""
    if start is None or (isinstance(start, float) and start != start):
        return None
    if isinstance(start, bool) or not isinstance(start, int | float) or start != int(start):
        raise UserError(f"answer_start {start!r} is not the number of a character")
    return int(start) if start >= 0 else None


def placed(question: str, context: str, answers: Sequence[Said]) -> Answered:
    """A question with the place of its first answer that is where it is said to be, else of one that occurs once.

    Raises:
        RowError: it cannot be told where the answer is.
    """
    if not answers:
        return Answered(question, context, None, (NONE,))
    for text, start in answers:
        if start is not None and context.startswith(text, start):
            return Answered(question, context, trimmed(context, (start, start + len(text))), ())
    there = [text for text, _ in answers if text in context]
    for text in there:
        start = context.find(text)
        if start == context.rfind(text):
            return Answered(question, context, trimmed(context, (start, start + len(text))), (FOUND,))
    raise RowError(UNCLEAR if there else NOT_THERE)


def trimmed(text: str, place: Place) -> Place:
    """The stretch without the spaces at its ends."""
    found = text[place[0] : place[1]]
    begin = place[1] - len(found.lstrip())
    return begin, begin + len(found.strip())
