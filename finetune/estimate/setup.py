"""What the memory of a run depends on, besides the architecture: dtypes, sizes, and who keeps what.

Plain values; knows nothing of how they are decided or of what they cost.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Loss = Literal["logits", "chunked", "liger"]
Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Name of an input to the shape that it has for one row, and torch's name of its kind of number."""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """By how many devices each part is divided: ZeRO stages 1, 2, 3, or FSDP's sharding, turn ones into ranks."""

    optimizer: int = 1
    gradients: int = 1
    weights: int = 1
    kept: bool = False
    """Whether the optimizer's share is still there when the trained model is put together."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One device's share of a run."""

    rows: int
    """Rows of one forward pass."""
    length: int
    """Tokens of the longest row: a batch is padded to it. Of all sequences, where a row holds several."""
    sequences: int = 1
    """Sequences of a row."""
    reference: bool = False
    """Whether a model that is trained whole is kept as it was as well."""
    target: int | None = None
    """Tokens of the longest target of an encoder-decoder; None takes `length`."""
    compute: str = "fp32"
    """Of matrix products, under autocast: bf16, fp16, or fp32 for no autocast."""
    trainable: str = "fp32"
    """Of weights that are trained, and so of their gradients."""
    frozen: str = "auto"
    """Of weights that are not; auto is what the model's config says."""
    beside_quantized: str = "fp32"
    """Of weights a quantizer leaves alone: peft's `prepare_model_for_kbit_training` turns them to fp32."""
    quantization: dict[str, Any] = field(default_factory=lambda: {"method": "none"})
    optim: str = "adamw_torch_fused"
    optim_args: str = ""
    checkpointing: bool = False
    accumulation: int = 1
    """Forward passes an optimizer step; from the second on, gradients are there already."""
    loss: Loss = "logits"
    """chunked is TRL's fused head, which never writes all logits down; liger its kernels' way of the same, which
    rows that are scored do not take."""
    trained_tokens: float = 1.0
    """Share of tokens with a label."""
    attention: str = "sdpa"
    """eager writes the scores of all pairs down; any other but sdpa reads packed rows without a mask."""
    scored_rows: int | None = None
    """Rows that are scored at once; None is as many as are trained."""
    scored_length: int | None = None
    """Tokens of the longest row that is scored; None is that of the longest trained one."""
    device: str = "cuda"
    """The device's type; cpu follows the processor's kernels."""
    shards: Shards = Shards()
    shapes: Shapes | None = None
    """Of what the model is given, where that does not follow from a length: images, sounds."""

    @property
    def has_triton(self) -> bool:
        """Whether Triton's kernels run on the device."""
        return self.device in ("cuda", "xpu")

    @property
    def projected(self) -> float:
        """Share of tokens that the chunked loss projects: those with a label, or all where no kernel folds tiles."""
        return self.trained_tokens if self.has_triton or self.loss == "liger" else 1.0

    @property
    def scored(self) -> float:
        """How many times what is trained at once is scored at once."""
        rows = (self.scored_rows or self.rows) / self.rows
        # The length of an image is that of its file, and all are resized.
        return rows if self.shapes else rows * (self.scored_length or self.length) / self.length
