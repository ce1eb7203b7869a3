"""Transcripts: the text of a sound as a model can write it, and whether its sound is long enough for it.

Knows texts, tokenizers of letters and the convolutions of a config. Knows no sounds, no columns and no task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from finetune.config.task import RowError

CASES: Mapping[str, Callable[[str], str]] = {"upper": str.upper, "lower": str.lower, "keep": str}
NAMED = 5
"""Characters of a text that are counted by their names; of a language that the vocabulary lacks, all are foreign."""
Convolutions = Sequence[tuple[int, int]]
"""Kernel and stride of each, in samples or in what the one before makes."""


@dataclass(frozen=True)
class Writing:
    """How a model writes."""

    alphabet: str
    """The characters it has, with the space; empty for all there are."""
    case: str
    """upper, lower or keep."""

    def __call__(self, text: str) -> tuple[str, list[str]]:
        """A transcript as the model can write it, and what was done to it that is worth counting.

        Raises:
            RowError: nothing is left of it.
        """
        cased = CASES[self.case](" ".join(text.split()))
        foreign = sorted(set(cased) - set(self.alphabet)) if self.alphabet else []
        kept = " ".join("".join(letter for letter in cased if letter not in foreign).split())
        if not kept:
            raise RowError("no character of the transcript is in the vocabulary" if foreign else "no transcript")
        notes = [f"transcripts written in {self.case} case"] if cased != " ".join(text.split()) else []
        notes += [f"transcripts without {letter}, which the vocabulary lacks" for letter in foreign[:NAMED]]
        more = ["transcripts without further characters, which it lacks"] if foreign[NAMED:] else []
        return kept, [*notes, *more]


def alphabet_of(tokenizer: Any) -> str:
    """The characters of a tokenizer of letters, with the space; empty for one of anything, such as of bytes."""
    between = getattr(tokenizer, "word_delimiter_token", None)
    if between is None:
        return ""
    vocabulary = tokenizer.get_vocab()
    letters = {token for token in vocabulary if len(token) == 1} - {*tokenizer.all_special_tokens, between}
    if getattr(tokenizer, "do_lower_case", False):  # it reads in upper case and writes in lower
        letters = {letter.lower() for letter in letters}
    return "".join(sorted({*letters, *([" "] if between in vocabulary else [])}))


def case_of(alphabet: str) -> str:
    """The one case of the letters of an alphabet: upper, lower, or keep where it has both or none."""
    has_upper, has_lower = any(map(str.isupper, alphabet)), any(map(str.islower, alphabet))
    return "keep" if has_upper == has_lower else "upper" if has_upper else "lower"


def ended(ids: list[int], begin: int | None, end: int) -> list[int]:
    """Ids of a text as a decoder learns them: without the token it begins with by itself, with one that ends it."""
    own = ids[1:] if begin is not None and ids[:1] == [begin] else ids
    return own if own[-1:] == [end] else [*own, end]


def convolutions_of(config: dict[str, Any]) -> list[tuple[int, int]]:
    """What makes frames of samples, by a model's config; empty where it says nothing, or not all."""
    if config.get("add_adapter") or config.get("squeeze_factor", 1) != 1:
        return []
    return list(zip(config.get("conv_kernel") or (), config.get("conv_stride") or ()))


def frames(samples: int, convolutions: Convolutions) -> int:
    """Frames that are made of samples; each can bear one token of a transcript."""
    for kernel, stride in convolutions:
        samples = (samples - kernel) // stride + 1
    return max(samples, 0)


def needed(ids: Iterable[int]) -> int:
    """Frames that CTC aligns a transcript with: one a token, and a blank between two that are equal."""
    listed = list(ids)
    return len(listed) + sum(one == other for one, other in pairwise(listed))
