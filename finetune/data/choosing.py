"""Questions with choices: how a row writes them, their tokens, and the choices of a row told apart again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finetune.config.task import RowError
from finetune.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def asked(question: Any, choices: Any) -> tuple[str, list[str]]:
    """A question with its choices; data sets of the AI2 keep the texts of choices in a mapping."""
    if isinstance(choices, dict):
        choices = choices.get("text")
    if not isinstance(question, str) or not question.strip():
        raise RowError("no question")
    if not isinstance(choices, list) or len(choices) < 2:
        raise RowError("fewer than two choices")
    return question, [str(choice) for choice in choices]


def right(answer: Any, choices: list[str], index: int) -> int:
    """The number of the right choice, written as a number, a letter or its text."""
    if answer is None or answer == "":
        raise RowError("no answer")
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    if isinstance(answer, str) and len(answer) == 1 and answer.upper() in LETTERS:
        answer = LETTERS.index(answer.upper())
    if not str(answer).isdigit() or int(answer) >= len(choices):
        raise UserError(f"row {index}: answer {answer!r} names none of its {len(choices)} choices")
    return int(answer)


def pairs(tokenizer: PreTrainedTokenizerBase, question: str, choices: list[str], limit: int) -> tuple[Any, bool]:
    """Each choice behind the question, and whether one had to be cut: then the longer of both loses its end."""
    pairs = [question] * len(choices), choices
    whole = tokenizer(*pairs, verbose=False)
    if max(map(len, whole["input_ids"])) <= limit:
        return whole, False
    return tokenizer(*pairs, truncation="longest_first", max_length=limit), True


def apart(row: dict[str, Any], most: int, empty: list[int]) -> Iterator[dict[str, Any]]:
    """The choices of a row as rows of their own."""
    names, start = [name for name in row if name not in ("choices", "labels")], 0
    for length in [int(each) for each in row["choices"]]:
        yield {name: list(map(int, row[name][start : start + length])) for name in names}
        start += length
    for _ in range(most - len(row["choices"])):
        yield {name: empty if name == "input_ids" else [0] * len(empty) for name in names}
