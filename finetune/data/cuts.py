"""From places in a text to places among its tokens, proved on ids.

A place is proved when the text before it, tokenized alone, gives the first tokens of the whole. Text is cut at added
tokens (`<|im_start|>`) before anything else happens to it, so what stands before such a token changes nothing after
it: it is enough to tokenize from the last added token on. `<|im_start|>assistant\\n` is the same text in every turn
of every row and is tokenized once. Tokens that overlap others (`\\n\\n` and `\\n\\n\\n`) prove nothing, and where
added tokens of the text and of the ids do not match one to one, the whole text before the place is tokenized, which is
the proof as it is defined.

Knows no roles and no templates.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from finetune.data.templates import added_tokens
from finetune.models import fast_tokens
from finetune.models.fast_tokens import Ids

NEAR = 256
"""Characters before a place in which its added token is sought first, and the longest text that is remembered."""
MOST_SEEN = 8
"""What is remembered of what stands before places: as many are compared for each."""


@dataclass(frozen=True)
class Tokenized:
    """A text and its ids, with what was found on the way to a proof."""

    text: str
    ids: Ids
    found: dict[str, dict[int, int]] = field(default_factory=dict, repr=False)
    """From where an added token is in the text to where it is among the ids; empty where there are more of either."""
    anchors: dict[int, tuple[int, str]] = field(default_factory=dict, repr=False)
    """Where the last added token before a place begins, and its text."""
    proved: dict[int, int | None] = field(default_factory=dict, repr=False)
    """How many tokens the text before a place has, or that this is not proved."""


Place = tuple[Tokenized, int]
"""A row, and a number of characters of its text."""


class Cuts:
    """Proofs for the texts of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.ids_of = fast_tokens.encode(tokenizer)
        single = {number for number, token in tokenizer.added_tokens_decoder.items() if token.single_word}
        self.ids = {text: number for number, text in added_tokens(tokenizer).items() if number not in single}
        anchors = _apart(set(added_tokens(tokenizer).values())) & self.ids.keys()
        self.pattern = re.compile("|".join(map(re.escape, anchors)) or "(?!)")
        self.known: dict[str, Ids] = {}
        self.seen: dict[str, str] = {}
        """What stands from an added token up to a place, and the token."""

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of rendered texts, which hold their own special tokens: adding them again would double the first one."""
        return self.ids_of(texts) if texts else []

    def learn(self, places: Iterable[Place]) -> None:
        """Tokenize at once what the proofs of these places need."""
        windows = {row.text[self._anchor(row, end)[0] : end] for row, end in places}
        self._remember([window for window in windows if window not in self.known])

    def forget(self) -> None:
        """Keep only what is short, and so likely to come again."""
        self.known = {window: ids for window, ids in self.known.items() if len(window) <= NEAR}

    def at(self, row: Tokenized, end: int) -> int | None:
        """How many tokens `text[:end]` has, which are the first of the whole; None where they are not."""
        if end not in row.proved:
            row.proved[end] = self._proved(row, end)
        return row.proved[end]

    def _proved(self, row: Tokenized, end: int) -> int | None:
        start, token = self._anchor(row, end)
        first = self._index(row, start, token) if token else 0
        if first is None:
            first, start = 0, 0
        window = self._of(row.text[start:end])
        return first + len(window) if row.ids[first : first + len(window)] == window else None

    def _anchor(self, row: Tokenized, end: int) -> tuple[int, str]:
        """Where the last added token before a place begins, and its text; the beginning where there is none."""
        if end not in row.anchors:
            row.anchors[end] = self._seen(row.text, end) or self._sought(row.text, end)
        return row.anchors[end]

    def _seen(self, text: str, end: int) -> tuple[int, str] | None:
        """The same, where what stands between was seen before: a template begins its turns alike."""
        for between, token in self.seen.items():
            if text.endswith(between, 0, end):
                return end - len(between), token
        return None

    def _sought(self, text: str, end: int) -> tuple[int, str]:
        for begin in (max(0, end - NEAR), 0):
            found = list(self.pattern.finditer(text, begin, end))
            if found:
                start, token = found[-1].start(), found[-1][0]
                if len(self.seen) < MOST_SEEN and end - start <= NEAR:
                    self.seen[text[start:end]] = token
                return start, token
        return 0, ""

    def _index(self, row: Tokenized, start: int, token: str) -> int | None:
        """The index among the ids of the added token at `start`; None unless text and ids hold it equally often."""
        if token not in row.found:
            written, places = list(_occurrences(row.text, token)), _places(row.ids, self.ids[token])
            row.found[token] = dict(zip(written, places)) if len(written) == len(places) else {}
        return row.found[token].get(start)

    def _of(self, window: str) -> Ids:
        if window not in self.known:
            self._remember([window])
        return self.known[window]

    def _remember(self, windows: Sequence[str]) -> None:
        self.known.update(zip(windows, self.encode(windows), strict=True))


def _apart(tokens: Collection[str]) -> set[str]:
    """The tokens that no other reaches into, holds or goes on from: wherever their text is, they are."""
    ends = {token[at:] for token in tokens for at in range(1, len(token))}
    longer = sorted(ends.union(tokens))

    def is_apart(token: str) -> bool:
        if any(token[:count] in ends for count in range(1, len(token) + 1)):
            return False
        after = bisect_right(longer, token)
        return after == len(longer) or not longer[after].startswith(token)

    return {token for token in tokens if is_apart(token)}


def _occurrences(text: str, token: str) -> Iterator[int]:
    """Where a token is in a text."""
    at = text.find(token)
    while at >= 0:
        yield at
        at = text.find(token, at + len(token))


def _places(ids: Ids, number: int) -> list[int]:
    """Every index of a number."""
    found: list[int] = (np.asarray(ids) == number).nonzero()[0].tolist()
    return found
