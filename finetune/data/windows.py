"""Questions and contexts as tokens: windows of contexts that are long, the tokens of an answer, the likeliest answer.

Knows tokens and logits as arrays. Cheap to import; knows no columns and no model.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from finetune.config.task import IGNORED, NOTES, RowError
from finetune.data.answers import Answered, Place, trimmed
from finetune.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

WINDOWS, WITHOUT = "windows", "windows without the answer"
SHORTENED, UNEVEN = "questions shortened", "answers that begin or end within a token"
TOO_LONG = "no window holds the whole answer"


@dataclass(frozen=True)
class Window:
    """A question and as much of its context as fits."""

    columns: dict[str, list[int]]
    """The inputs of a model."""
    first: int
    """The first token of the context."""
    offsets: list[Place]
    """The characters of each token of the context."""
    null: int
    """The token that stands for no answer."""

    def tokens(self, place: Place | None) -> range:
        """The tokens of a stretch of the context; none where the window does not hold all of it."""
        if not place or not self.offsets or self.offsets[0][0] > place[0] or self.offsets[-1][1] < place[1]:
            return range(0)
        low, high = bisect_right(self.offsets, place[0], key=_end), bisect_left(self.offsets, place[1], key=_begin)
        return range(self.first + low, self.first + high)

    def place(self, first: int, last: int) -> Place:
        """The characters of the context from one token to another."""
        return self.offsets[first - self.first][0], self.offsets[last - self.first][1]

    def labels(self, tokens: range) -> list[int]:
        """1 for the tokens of the answer, or for the one that stands for none; others carry no loss."""
        marked = tokens or range(self.null, self.null + 1)
        size = len(self.columns["input_ids"])
        return [IGNORED] * marked.start + [1] * len(marked) + [IGNORED] * (size - marked.stop)


_begin, _end = itemgetter(0), itemgetter(1)


@dataclass(frozen=True)
class Windows:
    """How questions and contexts are cut into windows."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    stride: int
    """Tokens of the context that a window shares with the one before."""

    def __post_init__(self) -> None:
        if self.longest_question < 1:
            raise UserError(
                f"task.stride={self.stride} leaves no room for a question and its context in tokenizer.max_length="
                f"{self.max_length}. Write a smaller stride, or null for a third of the length"
            )

    @property
    def longest_question(self) -> int:
        """Half of what special tokens and the stride leave: by the other half, at least, each window goes on."""
        return (self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True) - self.stride) // 2

    def labelled(self, rows: Sequence[Answered]) -> list[list[dict[str, Any]]]:
        """The windows of each row with their labels, and what is worth counting.

        Raises:
            RowError: an answer is longer than what windows share, and lies in none of them.
        """
        found = self.of([row.question for row in rows], [row.context for row in rows])
        return [_labelled(row, *windows) for row, windows in zip(rows, found, strict=True)]

    def of(self, questions: Sequence[str], contexts: Sequence[str]) -> list[tuple[list[Window], bool]]:
        """The windows of each pair, one or several, and whether its question had to be shortened."""
        fitting = self._fitting(questions)
        encoded = self.tokenizer(
            fitting, list(contexts), truncation="only_second", max_length=self.max_length, stride=self.stride,
            return_overflowing_tokens=True, return_offsets_mapping=True, verbose=False,
        )  # fmt: skip
        windows: list[list[Window]] = [[] for _ in questions]
        for at, owner in enumerate(encoded["overflow_to_sample_mapping"]):
            windows[owner].append(self._window(encoded, at))
        return [(own, short != text) for own, short, text in zip(windows, fitting, questions, strict=True)]

    def _fitting(self, questions: Sequence[str]) -> list[str]:
        """The questions, without the ends of those that leave no room for a context."""
        most = self.longest_question
        encoded = self.tokenizer(list(questions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = encoded["offset_mapping"]
        return [text[: own[most - 1][1]] if len(own) > most else text for text, own in zip(questions, offsets)]

    def _window(self, encoded: Any, at: int) -> Window:
        parts = encoded.sequence_ids(at)
        first = parts.index(1) if 1 in parts else len(parts)
        names = [name for name in self.tokenizer.model_input_names if name in encoded and name != "attention_mask"]
        columns = {name: encoded[name][at] for name in names}
        offsets = encoded["offset_mapping"][at][first : first + parts.count(1)]
        return Window(columns, first, offsets, _null(self.tokenizer, columns["input_ids"]))


def _null(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> int:
    """Where transformers' own scripts have it: at the token that sums up or begins a text, else at the first one."""
    known = (tokenizer.cls_token_id, tokenizer.bos_token_id)
    return next((ids.index(token) for token in known if token is not None and token in ids), 0)


def _labelled(row: Answered, windows: list[Window], is_shortened: bool) -> list[dict[str, Any]]:
    tokens = [window.tokens(row.place) for window in windows]
    if row.place and not any(tokens):
        raise RowError(TOO_LONG)
    notes = [*row.notes, *[SHORTENED] * is_shortened, *[UNEVEN] * _is_uneven(row, windows, tokens)]
    notes += [WINDOWS] * len(windows) + [WITHOUT] * (len(windows) - sum(map(bool, tokens)) if row.place else 0)
    found = [{**own.columns, "labels": own.labels(at), NOTES: ()} for own, at in zip(windows, tokens, strict=True)]
    return [{**found[0], NOTES: notes}, *found[1:]]


def _is_uneven(row: Answered, windows: list[Window], tokens: list[range]) -> bool:
    """Whether the tokens of the answer hold more than it, spaces aside."""
    places = (own.place(at[0], at[-1]) for own, at in zip(windows, tokens, strict=True) if at)
    return any(trimmed(row.context, place) != row.place for place in places)


@dataclass(frozen=True)
class Decoding:
    """How an answer is chosen by the logits of its ends."""

    longest: int
    """Tokens that an answer may have."""
    count: int
    """Stretches that are weighed."""
    threshold: float | None
    """By how much no answer must score higher to be the answer; None: there always is one."""

    def answer(self, context: str, windows: Sequence[Window], logits: Sequence[NDArray[Any]]) -> dict[str, Any]:
        """The likeliest answer over all windows: text, place, its share among those weighed; empty where none is.

        Args:
            logits: of each token of a window, to be the first and to be the last, (tokens, 2).
        """
        best: dict[Place, float] = {}
        for window, own in zip(windows, logits, strict=True):
            for score, place in self._stretches(window, own):
                best[place] = max(score, best.get(place, score))
        # The window that holds the answer is the one that is surest that there is one.
        null = min(float(own[window.null].sum()) for window, own in zip(windows, logits, strict=True))
        return self._decided(context, dict(sorted(best.items(), key=_end, reverse=True)[: self.count]), null)

    def _stretches(self, window: Window, logits: NDArray[Any]) -> Iterator[tuple[float, Place]]:
        """The likeliest stretches of a window's context with their scores: the logits of both ends, added."""
        import numpy as np

        tokens = len(window.offsets)
        if not tokens:
            return
        starts, ends = logits[window.first : window.first + tokens].T
        width = min(self.longest, tokens)
        padded = np.append(ends, np.full(width - 1, -np.inf))
        scores = (starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)).ravel()
        chosen = np.argpartition(-scores, min(self.count, scores.size) - 1)[: self.count]
        for at in chosen[np.isfinite(scores[chosen])].tolist():
            first = window.first + at // width
            yield float(scores[at]), window.place(first, first + at % width)

    def _decided(self, context: str, best: dict[Place, float], null: float) -> dict[str, Any]:
        place, score = next(iter(best.items()), ((0, 0), -math.inf))
        is_none = not best or (self.threshold is not None and null - score > self.threshold)
        weighed = [*best.values(), *([null] if is_none or self.threshold is not None else [])]
        chosen, top = null if is_none else score, max(weighed)
        share = math.exp(chosen - top) / sum(math.exp(each - top) for each in weighed)
        begin, end = trimmed(context, place)
        found = {"answer": context[begin:end], "start": begin, "end": end}
        found = {"answer": "", "start": None, "end": None} if is_none else found
        return {**found, "confidence": round(share, 4), "null_score_diff": round(null - score, 4) if best else None}
