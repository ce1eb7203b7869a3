"""The formulas of ranked candidates: scores of lists, a list of scores and one of relevance for each query.

Relevance is 1 or more for what answers, 0 for what was judged not to, less for what nobody judged. Candidates stand in
the order of their scores, and of equal scores the less relevant comes first. A query that no candidate answers says
nothing and is left out; where that is all of them, a score is 0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from finetune.evaluation.scores import Array


def _ranked(scores: Array, relevance: Array) -> Iterator[Array]:
    """The relevance of each query's candidates, the highest score first."""
    for given, known in zip(scores, relevance, strict=True):
        if (known > 0).any():
            yield known[np.lexsort((known, -given))]


def _mean(found: list[float]) -> float:
    return float(np.mean(found)) if found else 0.0


def mrr(k: int) -> Callable[[Array, Array], float]:
    """One over the rank of the first relevant candidate, 0 beyond `k`."""

    def score(scores: Array, relevance: Array) -> float:
        ranks = [1 + int(np.argmax(known > 0)) for known in _ranked(scores, relevance)]
        return _mean([1 / rank if rank <= k else 0.0 for rank in ranks])

    return score


def recall(k: int) -> Callable[[Array, Array], float]:
    """Share of the relevant candidates among the first `k`."""

    def score(scores: Array, relevance: Array) -> float:
        return _mean([float((known[:k] > 0).sum() / (known > 0).sum()) for known in _ranked(scores, relevance)])

    return score


def ndcg(k: int) -> Callable[[Array, Array], float]:
    """Gain of the first `k`, each discounted by the logarithm of its rank, as a share of the best there could be."""

    def score(scores: Array, relevance: Array) -> float:
        return _mean([_gain(known, k) / _gain(np.sort(known)[::-1], k) for known in _ranked(scores, relevance)])

    return score


def _gain(relevance: Array, k: int) -> float:
    gains = np.maximum(relevance[:k], 0)
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def pairwise_accuracy(scores: Array, relevance: Array) -> float:
    """Share of pairs of a relevant candidate and one judged not to be that are in the right order."""
    right = [
        float((given[known > 0][:, None] > given[known == 0]).mean())
        for given, known in zip(scores, relevance, strict=True)
        if (known > 0).any() and (known == 0).any()
    ]
    return _mean(right)


def average_precision(predictions: Array, references: Array) -> float:
    """Of numbers and 0/1 labels: precision at each label 1, from the highest number down, in the mean."""
    order = np.lexsort((references, -predictions))
    hits = references[order] > 0
    return _mean((np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)).tolist())
