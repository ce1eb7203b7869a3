"""Mixtures: what an epoch takes of each source, spread evenly, the same for the same seed."""

import numpy as np
import pytest

from finetune.config.data import MixtureConfig, SourceConfig
from finetune.data import mixture
from finetune.data.rows import PIECE
from finetune.errors import UserError


def pieces(at, count, length):
    found = np.zeros(count, PIECE)
    found["shard"], found["row"], found["length"] = at, range(count), length
    return found


BIG, SMALL = pieces(0, 300, 10), pieces(1, 100, 40)


def mix(*rules, seed=0, **options):
    sources = [SourceConfig(path="a", **rule) for rule in rules]
    return mixture.mix([BIG, SMALL], sources, MixtureConfig(**options), seed)


def counts(mixed):
    return np.bincount(mixed["shard"], minlength=2).tolist()


def tokens(mixed):
    return [int(mixed["length"][mixed["shard"] == at].sum()) for at in (0, 1)]


def test_without_rules_every_row_is_taken_once():
    mixed = mix({}, {})
    assert counts(mixed) == [300, 100]
    assert len(np.unique(mixed[["shard", "row"]])) == 400


def test_one_source_without_rules_keeps_its_order():
    assert mixture.mix([BIG], [], MixtureConfig(), 0).tolist() == BIG.tolist()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"samples": 50}, {"samples": 250}, [50, 250]),
        ({"epochs": 0.5}, {"epochs": 2}, [150, 200]),
        ({"tokens": 1000}, {"tokens": 4000}, [100, 100]),
        ({"tokens": 1005}, {}, [101, 100]),
        ({"weight": 1}, {"weight": 1}, [100, 100]),
        ({"weight": 3}, {"weight": 1}, [300, 100]),
        ({"weight": 0.9}, {"weight": 0.1}, [300, 33]),
    ],
)
def test_rules_become_rows(first, second, expected):
    assert counts(mix(first, second)) == expected


def test_an_epoch_may_end_when_all_sources_are_used_up():
    assert counts(mix({"weight": 1}, {"weight": 1}, stopping_strategy="all_exhausted")) == [300, 300]


def test_weights_may_be_shares_of_tokens():
    mixed = mix({"weight": 1}, {"weight": 1}, weigh="tokens")
    assert tokens(mixed) == [3000, 3000]


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.75), (2.0, 3**0.5 / (3**0.5 + 1)), (1000.0, 0.5)])
def test_a_temperature_draws_sizes_together(temperature, share):
    big, small = counts(mix({}, {}, temperature=temperature))
    assert big / (big + small) == pytest.approx(share, abs=0.005)


def test_no_row_comes_again_before_all_others_came():
    taken = mix({"samples": 10}, {"samples": 250})
    rows = taken["row"][taken["shard"] == 1]
    assert np.bincount(rows).tolist().count(2) == np.bincount(rows).tolist().count(3) == 50


def test_sources_are_spread_evenly():
    mixed = mix({}, {})
    tenths = [counts(mixed[start : start + 40])[1] for start in range(0, 400, 40)]
    assert min(tenths) >= 7
    assert max(tenths) <= 13


def test_the_same_seed_mixes_the_same():
    first, again, other = (mix({"samples": 50}, {"samples": 50}, seed=seed).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_two_rules_of_one_source_are_refused():
    with pytest.raises(UserError, match=r"dataset\.sources\.1: samples and epochs are both set"):
        mixture.check([SourceConfig(path="a"), SourceConfig(path="b", samples=1, epochs=2)], MixtureConfig())


TEMPERATURE_AND_AMOUNTS = (
    "dataset.mixture.temperature=2 decides the share of every source, and dataset.sources.0.samples=3, "
    "dataset.sources.1.epochs=4 would say how much is taken; leave the temperature out, or write "
    "dataset.sources.N.weight for every source instead"
)


def test_a_temperature_beside_amounts_is_refused_with_every_key():
    rules, warm = ({"samples": 3}, {"epochs": 4}), MixtureConfig(temperature=2.0)
    with pytest.raises(UserError) as refused:
        mixture.check([SourceConfig(path="a", **rule) for rule in rules], warm)
    assert str(refused.value) == TEMPERATURE_AND_AMOUNTS


def test_a_temperature_beside_tokens_of_one_source_is_refused():
    sources = [SourceConfig(path="a"), SourceConfig(path="b", tokens=5000000)]
    with pytest.raises(UserError, match=r"temperature=2 .* dataset\.sources\.1\.tokens=5000000 would say"):
        mixture.check(sources, MixtureConfig(temperature=2.0))


def test_a_temperature_draws_weights_together():
    assert counts(mix({"weight": 9}, {"weight": 1}, temperature=2.0)) == [300, 100]


NOTHING = {
    "a small weight": ([{"weight": 9999}, {"weight": 1}], {}, "dataset.sources.1.weight=1"),
    "a small weight of tokens": ([{"weight": 1e5}, {"weight": 1}], {"weigh": "tokens"}, "dataset.sources.1.weight=1"),
    "few epochs": ([{}, {"epochs": 0.004}], {}, "dataset.sources.1.epochs=0.004"),
    "a low temperature": ([{}, {}], {"temperature": 0.1}, "dataset.mixture.temperature=0.1"),
    "a share too small for a number": (
        [{}, {}],
        {"temperature": 0.001, "stopping_strategy": "all_exhausted"},
        "dataset.mixture.temperature=0.001",
    ),
}


@pytest.mark.parametrize(("rules", "options", "key"), NOTHING.values(), ids=NOTHING)
def test_rules_that_take_no_row_of_a_source_are_refused_by_their_key(rules, options, key):
    with pytest.raises(UserError) as refused:
        mix(*rules, **options)
    name = key.partition("=")[0]
    expected = (
        f"{key}: an epoch takes no row of source a, for its amount rounds to 0; write a larger {name}, or leave the "
        "source out"
    )
    assert str(refused.value) == expected


def test_a_weight_of_some_sources_only_is_refused():
    with pytest.raises(UserError, match=r"dataset\.sources\.1 has no weight, and others have"):
        mixture.check([SourceConfig(path="a", weight=1), SourceConfig(path="b")], MixtureConfig())
