"""Time: given, measured here before, or computed; always a range with its source."""

from dataclasses import replace

import pytest

from finetune.estimate import devices, duration
from finetune.estimate.duration import Work

# Llama-3.1-8B: 8.03 B weights less the input embeddings, 4,096 tokens a row.
WORK = Work(tokens=10**8, length=4096, matmul=7_504_924_672, trained=7_504_924_672, layers=32, hidden=4096)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_flops_are_six_a_weight_and_token_and_four_where_the_base_is_frozen():
    short = replace(WORK, length=0)

    assert short.flops() == 6 * WORK.matmul * WORK.tokens
    assert replace(short, trained=0).flops() == 4 * WORK.matmul * WORK.tokens
    assert replace(short, checkpointing=True).flops() == 8 * WORK.matmul * WORK.tokens


def test_flops_of_an_8b_model_are_the_published_ones():
    """48.25 GFLOP a token at 4,096, causal attention: what the records of NeMo and torchtitan are counted by."""
    assert WORK.flops() / WORK.tokens / 1e9 == pytest.approx(48.25, rel=0.01)


def test_a_published_record_is_in_the_range():
    """NeMo AutoModel: LoRA of Llama-3-8B on one H100, 12,473 tokens/s (docs/performance-summary.mdx)."""
    work = replace(WORK, trained=0)
    found = duration.duration(work, 1, devices.find("h100"), "none")

    assert found.low <= work.tokens / 12_473 <= found.high


def test_what_was_measured_beats_what_is_computed_and_what_is_given_beats_both():
    key = duration.shape(model="m", rows=4)
    computed = duration.duration(WORK, 1, devices.find("h100"), key)
    duration.record(key, 10_000.0)
    measured = duration.duration(WORK, 1, devices.find("h100"), key)
    given = duration.duration(WORK, 2, devices.find("h100"), key, given=20_000.0)

    assert "FLOP" in computed.source
    assert measured.low < 10**8 / 10_000 < measured.high
    assert "measured here" in measured.source
    assert given.low < 10**8 / 40_000 < given.high


def test_a_shape_is_named_by_its_facts_in_any_order():
    assert duration.shape(a=1, b=2) == duration.shape(b=2, a=1) != duration.shape(a=1, b=3)


@pytest.mark.parametrize("text", ["not json", "[]", '{"k": 3}', '{"k": {"tokens_per_second": "fast"}}'])
def test_a_broken_cache_is_no_cache(text, tmp_path):
    file = tmp_path / "finetune" / "throughput.json"
    file.parent.mkdir()
    file.write_text(text)

    assert duration.recall("k") is None
    duration.record("k", 5.0)
    assert duration.recall("k") == 5.0


def test_a_processor_is_measured_and_an_unknown_device_has_no_time():
    assert duration.duration(WORK, 1, None, "none").low > 0
    assert duration.duration(WORK, 1, devices.Device("mps", 0, 0, 0, ""), "none") is None
