"""Precision: auto follows the machine, and what the machine cannot do is refused."""

import pytest
import torch

from finetune.config.schema import PrecisionConfig
from finetune.errors import UserError
from finetune.models import precision


@pytest.fixture
def on(monkeypatch):
    """A processor that does or does not multiply bf16, or a GPU."""

    def choose(kind: str, bf16: bool):
        monkeypatch.setattr(precision, "device", lambda: torch.device(kind))
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)

    return choose


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize(("bf16", "compute"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_only_where_it_is_native(kind, bf16, compute, on):
    on(kind, bf16)
    found = precision.resolve(PrecisionConfig())
    assert (found.compute, found.trainable) == (compute, "fp32")
    assert kind in found.reason


def test_fp16_on_a_processor_is_refused(on):
    on("cpu", True)
    with pytest.raises(UserError, match="precision=auto, bf16 or fp32"):
        precision.resolve(PrecisionConfig(compute="fp16"))


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_what_was_written_is_taken(compute, on):
    on("cpu", False)
    found = precision.resolve(PrecisionConfig(compute=compute, trainable="bf16"))
    assert (found.compute, found.trainable, found.reason) == (compute, "bf16", "as configured")


@pytest.mark.parametrize(("compute", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_in_the_dtype_computed_in(compute, dtype, on):
    on("cpu", True)
    with precision.autocast(compute):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
