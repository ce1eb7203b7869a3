"""A quantized base: every quantizer of transformers, by its own name."""

from collections.abc import Callable, Sequence
from typing import Any

from finetune.config import options
from finetune.errors import MissingExtra
from finetune.models.precision import DTYPES, Precision

NONE = "none"


def config(quantization: dict[str, Any], precision: Precision, heads: Callable[[], Sequence[str]]) -> Any | None:
    """The library's config object, or None.

    Args:
        heads: finds the modules beside the body, which stay whole. transformers leaves out the last module by the name
            of its last weight, and misses it where that is a bias: bitsandbytes fails on a head that is new.
    Raises:
        MissingExtra: the quantizer's package is not installed.
    """
    method = quantization["method"]
    if method == NONE:
        return None
    given = {name: value for name, value in quantization.items() if name != "method"}
    if method.startswith("bitsandbytes") and given.get("llm_int8_skip_modules") is None:
        given["llm_int8_skip_modules"] = list(heads()) or None
    if method == "bitsandbytes_4bit":
        given.setdefault("bnb_4bit_compute_dtype", DTYPES[precision.compute])
    try:
        return options.resolve(options.methods("quantization")[method])(**given)
    except ImportError as error:
        raise MissingExtra(error.name or method, "quant") from None


def keep_differentiable(model: Any) -> None:
    """Keep 4-bit weights in the layout that training can differentiate.

    On a processor with AVX512-BF16, bitsandbytes repacks them at the first evaluation, and repacked weights pass no
    gradient on: measured after one evaluation, gradients of a LoRA were off by up to their own size, without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def check_installed(quantization: dict[str, Any]) -> None:
    """Refuse early what loading would refuse late.

    Raises:
        MissingExtra: bitsandbytes is asked for and not installed.
    """
    import importlib.util

    if quantization["method"].startswith("bitsandbytes") and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "quant")
