"""Which rows of which source an epoch takes, in which order. Knows pieces and lengths; knows no files and no tokens.

Every rule becomes an amount of each source, in rows or in tokens. Rows of a source come in a shuffled order, each once
before any comes again.
"""

from collections.abc import Sequence

import numpy as np

from finetune.config.data import MixtureConfig, SourceConfig
from finetune.data.shards import Array
from finetune.errors import UserError

RULES = ("weight", "samples", "tokens", "epochs")
Amount = tuple[float, str]
"""How much, of samples or of tokens."""


def mix(pieces: Sequence[Array], sources: Sequence[SourceConfig], mixture: MixtureConfig, seed: int) -> Array:
    """The pieces of an epoch, sources spread evenly through it.

    Args:
        pieces: of each source.
        sources: as written, in the same order; none where there is one source without rules.
    Raises:
        UserError: the rules contradict each other.
    """
    if not sources:
        return np.concatenate(pieces)
    random = np.random.default_rng(seed)
    amounts = _amounts(pieces, sources, mixture)
    taken = [_take(part, amount, random) for part, amount in zip(pieces, amounts, strict=True)]
    # The k-th of n rows somewhere in the k-th of n stretches: even, and not in step with the other sources.
    places = [(np.arange(len(part)) + random.random(len(part))) / max(len(part), 1) for part in taken]
    return np.concatenate(taken)[np.argsort(np.concatenate(places), kind="stable")]


def check(sources: Sequence[SourceConfig]) -> None:
    """Refuse rules that contradict each other.

    Raises:
        UserError: a source has two rules, or some have weights and others none.
    """
    for at, source in enumerate(sources):
        if len(written := [rule for rule in RULES if getattr(source, rule) is not None]) > 1:
            raise UserError(f"dataset.sources.{at}: {' and '.join(written)} are both set; write one of them")
    weighed = [source.weight is not None for source in sources]
    if any(weighed) and not all(weighed):
        raise UserError(
            f"dataset.sources.{weighed.index(False)} has no weight, and others have; a weight is a share beside the "
            "weights of all others"
        )


def _amounts(pieces: Sequence[Array], sources: Sequence[SourceConfig], mixture: MixtureConfig) -> list[Amount]:
    if mixture.temperature or sources[0].weight is not None:
        return _weighed(pieces, sources, mixture)
    return [_amount(part, source) for part, source in zip(pieces, sources, strict=True)]


def _amount(part: Array, source: SourceConfig) -> Amount:
    if source.tokens:
        return source.tokens, "tokens"
    return source.samples or (source.epochs or 1.0) * len(part), "samples"


def _weighed(pieces: Sequence[Array], sources: Sequence[SourceConfig], mixture: MixtureConfig) -> list[Amount]:
    """Shares by weight, as much of each as the stopping strategy lets an epoch take."""
    sizes = np.array([_measure(part, mixture.weigh).sum() for part in pieces], float)
    weights = np.array([source.weight or size for source, size in zip(sources, sizes, strict=True)])
    shares = weights ** (1 / (mixture.temperature or 1.0))
    shares /= shares.sum()
    end = min if mixture.stopping_strategy == "first_exhausted" else max
    return [(share * end(sizes / shares), mixture.weigh) for share in shares.tolist()]


def _measure(part: Array, unit: str) -> Array:
    return part["length"].astype(np.int64) if unit == "tokens" else np.ones(len(part), np.int64)


def _take(part: Array, amount: Amount, random: np.random.Generator) -> Array:
    """Rows until the amount is reached, in passes over the source, each shuffled anew."""
    wanted, unit = round(amount[0]), amount[1]
    measure = _measure(part, unit)
    passes = -(-wanted // int(measure.sum()))
    order = np.concatenate([random.permutation(len(part)) for _ in range(passes)])
    return part[order[: np.searchsorted(np.cumsum(measure[order]), wanted) + 1]]
