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
        UserError: the rules, which `check` has passed, take no row of a source.
    """
    if not sources:
        return np.concatenate(pieces)
    random = np.random.default_rng(seed)
    amounts = _amounts(pieces, sources, mixture)
    _check_amounts(amounts, sources, mixture)
    taken = [_take(part, amount, random) for part, amount in zip(pieces, amounts, strict=True)]
    # The k-th of n rows somewhere in the k-th of n stretches: even, and not in step with the other sources.
    places = [(np.arange(len(part)) + random.random(len(part))) / max(len(part), 1) for part in taken]
    return np.concatenate(taken)[np.argsort(np.concatenate(places), kind="stable")]


def check(sources: Sequence[SourceConfig], mixture: MixtureConfig) -> None:
    """Refuse rules that contradict each other.

    Raises:
        UserError: a source has two rules, some have weights and others none, or a temperature stands beside amounts.
    """
    for at, source in enumerate(sources):
        if len(written := _rules(source)) > 1:
            raise UserError(f"dataset.sources.{at}: {' and '.join(written)} are both set; write one of them")
    weighed = [source.weight is not None for source in sources]
    if any(weighed) and not all(weighed):
        raise UserError(
            f"dataset.sources.{weighed.index(False)} has no weight, and others have; a weight is a share beside the "
            "weights of all others"
        )
    if mixture.temperature:
        _check_temperature(sources, mixture.temperature)


def _check_temperature(sources: Sequence[SourceConfig], temperature: float) -> None:
    """A temperature decides shares, so that a source cannot say how much of it is taken."""
    amounts = [
        f"dataset.sources.{at}.{rule}={value:.12g}"
        for at, source in enumerate(sources)
        for rule, value in _rules(source).items()
        if rule != "weight"
    ]
    if amounts:
        raise UserError(
            f"dataset.mixture.temperature={temperature:g} decides the share of every source, and "
            f"{', '.join(amounts)} would say how much is taken; leave the temperature out, or write "
            "dataset.sources.N.weight for every source instead"
        )


def _rules(source: SourceConfig) -> dict[str, float]:
    """The rules that are written of a source, with their values."""
    return {rule: value for rule in RULES if (value := getattr(source, rule)) is not None}


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
    # Beside the largest: no power of it is too large for a number.
    shares = (weights / weights.max()) ** (1 / (mixture.temperature or 1.0))
    if not shares.all():  # too small for a number: nothing, whatever the others are
        return [(float(share > 0), mixture.weigh) for share in shares.tolist()]
    end = min if mixture.stopping_strategy == "first_exhausted" else max
    return [(share * end(sizes / shares), mixture.weigh) for share in shares.tolist()]


def _check_amounts(amounts: Sequence[Amount], sources: Sequence[SourceConfig], mixture: MixtureConfig) -> None:
    """A source of which nothing is taken is a slip of the recipe: whoever wants none of it leaves it out."""
    for at, ((amount, _), source) in enumerate(zip(amounts, sources, strict=True)):
        if round(amount) < 1:
            written = {f"dataset.sources.{at}.{rule}": value for rule, value in _rules(source).items()}
            key, value = next(iter(written.items()), ("dataset.mixture.temperature", mixture.temperature))
            raise UserError(
                f"{key}={value:.12g}: an epoch takes no row of source {source.label or source.path}, for its amount "
                f"rounds to 0; write a larger {key}, or leave the source out"
            )


def _measure(part: Array, unit: str) -> Array:
    return part["length"].astype(np.int64) if unit == "tokens" else np.ones(len(part), np.int64)


def _take(part: Array, amount: Amount, random: np.random.Generator) -> Array:
    """Rows until the amount is reached, in passes over the source, each shuffled anew."""
    wanted, unit = round(amount[0]), amount[1]
    measure = _measure(part, unit)
    passes = -(-wanted // int(measure.sum()))
    order = np.concatenate([random.permutation(len(part)) for _ in range(passes)])
    return part[order[: np.searchsorted(np.cumsum(measure[order]), wanted) + 1]]
