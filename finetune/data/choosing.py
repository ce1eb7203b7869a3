"""Questions with choices: how a row writes them, their tokens, and the choices of a row told apart again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from finetune.config.task import RowError
from finetune.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LABEL, NUMBER, LETTER, TEXT = "label", "number", "letter", "text"


def asked(question: Any, choices: Any) -> tuple[str, list[str]]:
    """A question with its choices; data sets of the AI2 keep the texts of choices in a mapping, beside their labels.

    Raises:
        RowError: there is nothing to ask, or nothing to choose from.
    """
    texts = _texts(choices)
    if not isinstance(question, str) or not question.strip():
        raise RowError("no question")
    if not isinstance(texts, list) or len(texts) < 2:
        raise RowError("fewer than two choices")
    return question, [str(text) for text in texts]


def naming(train: Dataset, choices: str, answer: str) -> str:
    """How the answers of a column name their choices: by label where choices have some, by number, letter or text.

    Raises:
        UserError: two ways fit every row, and lead to different choices.
    """
    if any(map(_labels, train[choices])):
        return LABEL
    ways = _fitting(_answered(train, choices, answer))
    if len(ways) > 1:
        for said, given in _answered(train, choices, answer):
            _check_same(ways, said, given)
    return ways[0]


def right(way: str, answer: Any, choices: Any, index: int) -> int:
    """The number of the right choice of a row.

    Args:
        way: how answers name their choices.
        choices: as the row writes them.
    Raises:
        RowError: the row has no answer.
        UserError: the answer names no choice.
    """
    if _is_blank(answer):
        raise RowError("no answer")
    if way == LABEL:
        _check_labels(choices, index)
    found = _place(way, answer, choices)
    if found is None:
        meant = "the text of a choice" if way == TEXT else f"one of {', '.join(_names(way, choices))}"
        raise UserError(
            f"row {index}: answer {answer!r} names none of its {len(_texts(choices))} choices by {way}, "
            f"as answers of train are read. Write {meant}"
        )
    return found


def _check_labels(choices: Any, index: int) -> None:
    """Refuse labels that do not tell choices apart."""
    labels, count = _labels(choices), len(_texts(choices))
    if not len(labels) == len(set(labels)) == count:
        raise UserError(
            f"row {index}: the labels of its {count} choices are {', '.join(labels) or 'missing'}. "
            "Write a label of its own for each choice"
        )


def _texts(choices: Any) -> Any:
    return choices.get("text") if isinstance(choices, dict) else choices


def _labels(choices: Any) -> list[str]:
    labels = choices.get("label") if isinstance(choices, dict) else None
    return [str(label) for label in labels] if isinstance(labels, list) else []


NAMES: dict[str, Callable[[Any], Sequence[Any]]] = {
    LABEL: _labels,
    NUMBER: lambda choices: range(len(_texts(choices))),
    LETTER: lambda choices: LETTERS[: len(_texts(choices))],
    TEXT: _texts,
}


def _names(way: str, choices: Any) -> list[str]:
    return [str(name) for name in NAMES[way](choices)]


def _place(way: str, answer: Any, choices: Any) -> int | None:
    """The number of the choice that an answer names in one way."""
    # 1 beside texts is a number, though one of them may be "1".
    if way == TEXT and not isinstance(answer, str) and isinstance(_texts(choices)[0], str):
        return None
    names, name = _names(way, choices), str(answer).upper() if way == LETTER else str(answer)
    return names.index(name) if name in names else None


def _is_blank(answer: Any) -> bool:
    return answer is None or answer == ""


def _answered(rows: Dataset, choices: str, answer: str) -> Iterator[tuple[Any, Any]]:
    """Answers beside choices; rows that lack one of them are dropped where they are read."""
    for said, given in zip(rows[answer], rows[choices], strict=True):
        if not _is_blank(said) and isinstance(_texts(given), list) and _texts(given):
            yield said, given


def _fitting(rows: Iterator[tuple[Any, Any]]) -> list[str]:
    """The ways in which every answer names a choice; one that names none in any way is refused where it is read."""
    ways = [NUMBER, LETTER, TEXT]
    for answer, choices in rows:
        ways = [way for way in ways if _place(way, answer, choices) is not None] or ways
    return ways


def _check_same(ways: Sequence[str], answer: Any, choices: Any) -> None:
    """Refuse an answer that names different choices."""
    found = {way: _texts(choices)[place] for way in ways if (place := _place(way, answer, choices)) is not None}
    if len(set(found.values())) > 1:
        read = ", and ".join(f"{text!r} by {way}" for way, text in found.items())
        raise UserError(
            f"answer {answer!r} to one of {', '.join(map(str, _texts(choices)))} is {read}, and so may be read "
            "every answer of train. Write choices as {label: [A, B, …], text: […, …]} and the label as the answer"
        )


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
