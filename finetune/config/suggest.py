"""The nearest name to what was written."""

import difflib
from collections.abc import Iterable


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The choice most like `word`, or None where nothing is close."""
    names = list(choices)
    close = difflib.get_close_matches(word, names, n=5, cutoff=cutoff)
    if len(word) > 1:
        close += [name for name in names if abs(len(name) - len(word)) <= 1 and distance(word, name) == 1]
    return min(close, key=lambda name: distance(word, name), default=None)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`Did you mean X?`, or the empty string."""
    match = nearest(word, choices)
    return f"Did you mean {match}?" if match else ""


def distance(a: str, b: str) -> int:
    """How many letters were added, left out, changed, or swapped with their neighbour."""
    before, row = [], list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, above, row = row, before, [i]
        for j, other in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != other)))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                row[j] = min(row[j], above[j - 2] + 1)
    return row[-1]
