"""From vectors or scores to ranked candidates: a list of scores a query, and beside it how relevant each candidate is.

Relevance is 1 or more for what answers the query, 0 for what was said not to, -1 for what nobody judged. Of many
candidates only the best and the judged ones are kept, so that a list is short and its first ten are the true ones.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.joined import PAD

Array = NDArray[Any]
Ranking = tuple[list[float], list[float]]
"""Scores, the highest first, and relevance. Ties count against the model."""
KEPT, BLOCK = 10, 256


def of_vectors(vectors: Array, texts: Array) -> tuple[list[list[float]], list[list[float]]]:
    """Each anchor ranks every other text of the rows by the cosine of their vectors.

    Args:
        vectors: (rows, columns, dimensions); the columns are anchor, positive and, where there are some, negatives.
        texts: (rows, columns), a number for each text, the same for the same text.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    queries, asked, query_of = np.unique(texts[:, 0], return_index=True, return_inverse=True)
    _, at, numbers = np.unique(texts[:, 1:], return_index=True, return_inverse=True)
    documents = unit[:, 1:].reshape(-1, unit.shape[-1])[at]
    judged = _judged(query_of, numbers.reshape(len(texts), -1), len(queries))
    found: list[Ranking] = []
    for start in range(0, len(queries), BLOCK):
        scores = unit[asked[start : start + BLOCK], 0] @ documents.T
        found += [_ranking(row, judged[start + number]) for number, row in enumerate(scores)]
    return _apart(found)


def of_scores(scores: Array, relevance: Array, queries: Array) -> tuple[list[list[float]], list[list[float]]]:
    """Each query ranks its own candidates; all three have an entry a candidate."""
    order = np.argsort(queries, kind="stable")
    bounds = np.flatnonzero(np.diff(queries[order])) + 1
    groups = np.split(order, bounds)
    return _apart([_sorted(scores[group], relevance[group]) for group in groups])


def _judged(query_of: Array, documents: Array, count: int) -> list[dict[int, float]]:
    """Document to relevance, for each query."""
    found: list[dict[int, float]] = [{} for _ in range(count)]
    for query, row in zip(query_of.tolist(), documents.tolist(), strict=True):
        for place, document in enumerate(row):
            found[query][document] = max(found[query].get(document, 0.0), float(place == 0))
    return found


def _ranking(scores: Array, judged: dict[int, float]) -> Ranking:
    best = np.argpartition(-scores, KEPT)[:KEPT] if len(scores) > KEPT else np.arange(len(scores))
    kept = np.union1d(best, list(judged))
    return _sorted(scores[kept], np.array([judged.get(int(document), -1.0) for document in kept]))


def _sorted(scores: Array, relevance: Array) -> Ranking:
    order = np.lexsort((relevance, -scores))
    return scores[order].tolist(), relevance[order].tolist()


def _apart(found: list[Ranking]) -> tuple[list[list[float]], list[list[float]]]:
    return [scores for scores, _ in found], [relevance for _, relevance in found]


def of_batch(scores: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
    """Of each pair its score and how relevant it is, (pairs, 2), and a number for its query, (pairs,).

    Args:
        batch: as `data.joined.candidates_padded` makes it; without labels, the first document of a row is relevant.
    """
    import torch

    there = batch["documents"][..., 0] != PAD
    first = torch.zeros_like(there, dtype=torch.float32)
    first[:, 0] = 1.0
    known = batch.get("label", first)[there]
    queries = fingerprints(batch["query"], (batch["query"] != PAD).long())[:, None].expand_as(there)[there]
    return torch.stack([scores.float(), known], -1), queries


def fingerprints(ids: Any, mask: Any) -> Any:
    """A number for each row of token ids, the same for the same tokens whatever pads them; int64, (rows,)."""
    import torch

    places = torch.cumsum(mask, -1)
    return (_mixed(ids.to(torch.int64) + _mixed(places.to(torch.int64))) * mask).sum(-1)


def _mixed(numbers: Any) -> Any:
    """Every bit of a number moved into every other: the last steps of splitmix64, in wrapping arithmetic."""
    for factor, shift in ((-4658895280553007687, 30), (-7723592293110705685, 27)):
        numbers = (numbers ^ (numbers >> shift)) * factor
    return numbers ^ (numbers >> 31)
