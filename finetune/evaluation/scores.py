"""The formulas: scores of predictions against references, as arrays. What is undefined is 0.0, never nan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import UserError

Array = NDArray[Any]


@dataclass(frozen=True)
class Counts:
    """What every score but subset accuracy follows from: three vectors, one entry a class."""

    correct: Array
    predicted: Array
    expected: Array

    @classmethod
    def of(cls, predictions: Array, references: Array) -> Counts:
        """Counts of class ids, (n,), or of 0/1 labels, (n, labels)."""
        if predictions.ndim == 2:
            return cls((predictions & references).sum(0), predictions.sum(0), references.sum(0))
        classes, ids = np.unique(np.concatenate([predictions, references]), return_inverse=True)
        predicted, expected = np.split(ids, 2)
        count = partial(np.bincount, minlength=len(classes))
        return cls(count(predicted[predicted == expected]), count(predicted), count(expected))


def _ratio(numerator: Any, denominator: Any) -> Array:
    """The quotient in float64, 0.0 where the denominator is 0."""
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator)
    quotient: Array = np.divide(top, bottom, out=np.zeros(top.shape), where=bottom != 0)
    return quotient


def accuracy(predictions: Array, references: Array) -> float:
    """Share of rows that are right, in every label where there are several."""
    same = predictions == references
    return float((same if same.ndim == 1 else same.all(axis=1)).mean())


def _f1_of_classes(counts: Counts) -> Array:
    return _ratio(2 * counts.correct, counts.predicted + counts.expected)


def f1(predictions: Array, references: Array) -> float:
    """Mean over classes of the harmonic mean of precision and recall."""
    return float(_f1_of_classes(Counts.of(predictions, references)).mean())


def f1_micro(predictions: Array, references: Array) -> float:
    """F1 of all decisions taken together."""
    counts = Counts.of(predictions, references)
    return float(_ratio(2 * counts.correct.sum(), counts.predicted.sum() + counts.expected.sum()))


def f1_weighted(predictions: Array, references: Array) -> float:
    """F1 of the classes, weighted by how often each is expected."""
    counts = Counts.of(predictions, references)
    return float(_ratio(_f1_of_classes(counts) @ counts.expected, counts.expected.sum()))


def precision(predictions: Array, references: Array) -> float:
    """Mean over classes of the share of predictions that are right."""
    counts = Counts.of(predictions, references)
    return float(_ratio(counts.correct, counts.predicted).mean())


def recall(predictions: Array, references: Array) -> float:
    """Mean over classes of the share of occurrences that are found."""
    counts = Counts.of(predictions, references)
    return float(_ratio(counts.correct, counts.expected).mean())


Entity = tuple[int, str, int, int]
"""Number of the example, label, first word, and the word behind the last."""


def entities(examples: Sequence[Sequence[str]] | Array) -> set[Entity]:
    """The entities that tags mark, as conlleval reads them: `I-` and `E-` begin one where none of their label is open.

    `E-` and `S-` end one.
    """
    found: set[Entity] = set()
    for number, tags in enumerate(examples):
        begin, open_label = 0, ""
        for at, tag in enumerate([*tags, "O"]):
            prefix, _, label = tag.partition("-")
            goes_on = prefix in ("I", "E") and label == open_label
            if open_label and not goes_on:
                found.add((number, open_label, begin, at))
                open_label = ""
            if tag != "O" and not goes_on:
                begin, open_label = at, label
            if open_label and prefix in ("E", "S"):
                found.add((number, open_label, begin, at + 1))
                open_label = ""
    return found


def _entity_counts(predictions: Array, references: Array) -> tuple[int, int, int]:
    predicted, expected = entities(predictions), entities(references)
    return len(predicted & expected), len(predicted), len(expected)


def entity_precision(predictions: Array, references: Array) -> float:
    """Share of predicted entities that are right in label and in both ends."""
    right, predicted, _ = _entity_counts(predictions, references)
    return float(_ratio(right, predicted))


def entity_recall(predictions: Array, references: Array) -> float:
    """Share of expected entities that are found, in label and in both ends."""
    right, _, expected = _entity_counts(predictions, references)
    return float(_ratio(right, expected))


def entity_f1(predictions: Array, references: Array) -> float:
    """Harmonic mean of both, over all entities together: seqeval's `overall_f1`."""
    right, predicted, expected = _entity_counts(predictions, references)
    return float(_ratio(2 * right, predicted + expected))


def tag_accuracy(predictions: Array, references: Array) -> float:
    """Share of tags that are right."""
    pairs = [pair for one, other in zip(predictions, references, strict=True) for pair in zip(one, other, strict=True)]
    return sum(predicted == expected for predicted, expected in pairs) / max(len(pairs), 1)


def matthews(predictions: Array, references: Array) -> float:
    """The multi-class coefficient, R_K of https://doi.org/10.1016/j.compbiolchem.2004.09.006."""
    if predictions.ndim == 2:
        raise UserError("matthews_correlation is defined for class ids, not for rows of 0/1 labels.")
    counts = Counts.of(predictions, references)
    total = len(references)
    covariance = total * counts.correct.sum() - counts.predicted @ counts.expected
    spread = [np.sqrt(float(total**2 - side @ side)) for side in (counts.predicted, counts.expected)]
    return float(_ratio(covariance, spread[0] * spread[1]))


def pearson(predictions: Array, references: Array) -> float:
    """Linear correlation; 0.0 where one side is constant."""
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    return float(np.clip(_direction(predictions) @ _direction(references), -1.0, 1.0))


def _direction(values: Array) -> Array:
    """The centred values at length 1."""
    centred = values - values.mean()
    # Scaled first: the squares of very small or very large numbers leave the range of a float.
    scaled: Array = centred / np.abs(centred).max()
    return scaled / float(np.linalg.norm(scaled))


def spearman(predictions: Array, references: Array) -> float:
    """Pearson correlation of the ranks."""
    return pearson(_ranks(predictions), _ranks(references))


def _ranks(values: Array) -> Array:
    """Ranks from 1; tied values share the mean of their ranks."""
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.cumsum(size) - (size - 1) / 2
    return np.asarray(rank[group])


def mse(predictions: Array, references: Array) -> float:
    """Mean squared error."""
    return float(np.square(predictions - references).mean())


def rmse(predictions: Array, references: Array) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(mse(predictions, references)))


def mae(predictions: Array, references: Array) -> float:
    """Mean absolute error."""
    return float(np.abs(predictions - references).mean())


def r2(predictions: Array, references: Array) -> float:
    """Share of the variance explained."""
    if np.ptp(references) == 0:
        return float((predictions == references).all())
    spread = np.ptp(references)
    errors, deviations = (predictions - references) / spread, (references - references.mean()) / spread
    return 1.0 - float(np.square(errors).sum() / np.square(deviations).sum())


def reward_margin(chosen: Array, rejected: Array) -> float:
    """By how much the reward of a chosen answer is greater than that of the rejected one, on average."""
    return float((chosen - rejected).mean())


def reward_accuracy(chosen: Array, rejected: Array) -> float:
    """Share of pairs whose chosen answer has the greater reward; a tie decides nothing and counts as half."""
    return float(((chosen > rejected) + 0.5 * (chosen == rejected)).mean())


def label_margin(scores: Array, labels: Array) -> float:
    """By how much the mean score of what is labelled 1 is greater than that of what is labelled 0."""
    wanted = labels > 0
    return float(scores[wanted].mean() - scores[~wanted].mean()) if 0 < wanted.sum() < len(labels) else 0.0


def roc_auc(scores: Array, labels: Array) -> float:
    """Share of pairs of one labelled 1 and one labelled 0 that the scores order rightly; a tie counts as half."""
    wanted = labels > 0
    ones, zeros = int(wanted.sum()), int((~wanted).sum())
    return float(_ratio(_ranks(scores)[wanted].sum() - ones * (ones + 1) / 2, ones * zeros))
