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
        mixture.check([SourceConfig(path="a"), SourceConfig(path="b", samples=1, epochs=2)])


def test_a_weight_of_some_sources_only_is_refused():
    with pytest.raises(UserError, match=r"dataset\.sources\.1 has no weight, and others have"):
        mixture.check([SourceConfig(path="a", weight=1), SourceConfig(path="b")])
