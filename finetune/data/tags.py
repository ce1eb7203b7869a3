"""Tags of words: their tokens, and the spans that they mark. Cheap to import; knows no columns and no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from finetune.config.task import IGNORED, NOTES, RowError
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch


Spread = Callable[[int, int], list[int]]
"""From the tag of a word and the number of its pieces to the tags of these."""
ENDS = {"B": ("B", "I"), "E": ("I", "E"), "S": ("B", "E")}
"""How the first and the last piece of a word are marked, by its own mark."""


def checked(
    words: Any, given: Any, name: Callable[[Any], str | None], ids: dict[str, int], index: int
) -> tuple[list[str], list[int]]:
    """Words and the ids of their tags; a missing tag is ignored.

    Args:
        name: from a tag as it is written to its name, None where it is missing.
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
    if unknown := [tag for tag in tags if tag is not None and tag not in ids]:
        raise UserError(f"row {index}: tag {unknown[0]!r} does not occur in train, which has {', '.join(ids)}")
    return [str(word) for word in words], [IGNORED if tag is None else ids[tag] for tag in tags]


def first(tag: int, count: int) -> list[int]:
    """The tag at the first piece of its word; the further ones are left out of the loss."""
    return [tag, *[IGNORED] * (count - 1)]


def spreading(ids: dict[str, int]) -> Spread:
    """A tag at all pieces of its word, which mark one entity together; at the first where they have no tags for it."""
    names = {at: name for name, at in ids.items()}

    def spread(tag: int, count: int) -> list[int]:
        pieces = [ids.get(name) for name in _pieces(names.get(tag, ""), count)]
        known = [piece for piece in pieces if piece is not None]
        return known if len(known) == count else first(tag, count)

    return spread


def _pieces(name: str, count: int) -> list[str]:
    """The names of the tags of pieces: `S-x` is `B-x`, `I-x`, …, `E-x`."""
    prefix, _, label = name.partition("-")
    if count == 1 or prefix not in ENDS or not label:
        return [name] * count
    begin, end = ENDS[prefix]
    return [f"{begin}-{label}", *[f"I-{label}"] * (count - 2), f"{end}-{label}"]


def aligned(words: Sequence[int | None], tags: list[int], spread: Spread) -> dict[str, Any]:
    """Labels of tokens, and a note for each tag whose word has none, and for each word without a tag.

    Args:
        words: of each token the number of its word; None for special tokens.
    """
    pieces = [(word, len(list(same))) for word, same in groupby(words)]
    labels = [first(IGNORED, count) if word is None else spread(tags[word], count) for word, count in pieces]
    lost = len(tags) - len({word for word in words if word is not None})
    notes = ["tags of words without tokens"] * lost + ["words without a tag"] * tags.count(IGNORED)
    return {"labels": [label for each in labels for label in each], NOTES: notes}


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
        is_ended = tags[at - 1] in (f"E-{label}", f"S-{label}")
        if at < len(tags) and label and not is_ended and tags[at] in (f"I-{label}", f"E-{label}"):
            continue
        if tags[begin] != "O":
            yield begin, at
        begin = at


def _place(given: Any, encoded: Any, first: int, last: int) -> dict[str, Any]:
    if isinstance(given, list):
        return {"text": " ".join(given[first : last + 1]), "start": first, "end": last + 1}
    start, end = encoded.word_to_chars(first).start, encoded.word_to_chars(last).end
    return {"text": given[start:end], "start": start, "end": end}
