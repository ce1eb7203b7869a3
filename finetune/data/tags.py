"""Tags of words: their tokens, and the spans that they mark. Cheap to import; knows no columns and no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from finetune.config.task import IGNORED, NOTES, RowError
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch


def checked(
    words: Any, given: Any, name: Callable[[Any], str], ids: dict[str, int], index: int
) -> tuple[list[str], list[int]]:
    """Words and the ids of their tags.

    Args:
        name: from a tag as it is written to its name.
        ids: name to id.
    Raises:
        RowError: there are no words.
        UserError: there is not one tag a word, or one that train has not.
    """
    if not words:
        raise RowError("no words")
    if not isinstance(words, list) or not isinstance(given, list):
        raise UserError(f"row {index} holds {words!r} and {given!r}, where lists of words and of tags are expected")
    if len(words) != len(given):
        raise UserError(f"row {index} has {len(words)} words and {len(given)} tags")
    tags = [name(tag) for tag in given]
    if unknown := [tag for tag in tags if tag not in ids]:
        raise UserError(f"row {index}: tag {unknown[0]!r} does not occur in train, which has {', '.join(ids)}")
    return [str(word) for word in words], [ids[tag] for tag in tags]


def continued(ids: dict[str, int]) -> dict[int, int]:
    """The tag of the further pieces of a word: `B-x` goes on as `I-x` where there is such a tag."""
    return {at: ids.get(f"I-{name[2:]}", at) if name.startswith("B-") else at for name, at in ids.items()}


def aligned(words: Sequence[int | None], tags: list[int], inner: dict[int, int] | None) -> dict[str, Any]:
    """Labels of tokens, and a note for each tag whose word has none.

    Args:
        words: of each token the number of its word; None for special tokens.
        inner: the tag of further pieces by that of the first one; None leaves them out of the loss.
    """
    labels, before = [], None
    for word in words:
        is_first, before = word != before, word
        label = IGNORED if word is None or not (is_first or inner) else tags[word]
        labels.append(label if is_first or not inner or word is None else inner[label])
    lost = len(tags) - len({word for word in words if word is not None})
    return {"labels": labels, NOTES: ["tags of words without tokens"] * lost}


def spans(given: Any, encoded: Any, scores: torch.Tensor, names: Any) -> Iterator[dict[str, Any]]:
    """Stretches of words with one label: text, place, label, confidence.

    Args:
        given: a text, whose places are letters, or a list of words, whose places are words.
        encoded: its tokens, one row.
        scores: of each token a probability for each tag, (tokens, tags).
    """
    words = encoded.word_ids()
    firsts = [at for at, word in enumerate(words) if word is not None and (at == 0 or word != words[at - 1])]
    tags = [names[int(scores[at].argmax())] for at in firsts]
    for begin, end in stretches(tags):
        confidence = float(scores[firsts[begin:end]].max(-1).values.mean())
        place = _place(given, encoded, words[firsts[begin]], words[firsts[end - 1]])
        yield {**place, "label": tags[begin].partition("-")[2] or tags[begin], "confidence": round(confidence, 4)}


def stretches(tags: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where each span begins, and the word behind its last."""
    begin = 0
    for at in range(1, len(tags) + 1):
        label = tags[begin].partition("-")[2]
        if at < len(tags) and label and tags[at] in (f"I-{label}", f"E-{label}"):
            continue
        if tags[begin] != "O":
            yield begin, at
        begin = at


def _place(given: Any, encoded: Any, first: int, last: int) -> dict[str, Any]:
    if isinstance(given, list):
        return {"text": " ".join(given[first : last + 1]), "start": first, "end": last + 1}
    start, end = encoded.word_to_chars(first).start, encoded.word_to_chars(last).end
    return {"text": given[start:end], "start": start, "end": end}
