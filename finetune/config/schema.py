"""The keys that are ours: one dataclass a group, with types, limits and the reason of each default.

Plain dataclasses, read by pydantic. Imports no torch and no Hugging Face library. The libraries' own options
(`trainer`, `adapter`, `quantization`) stay open mappings here and are checked against the installed versions in
`theirs.py`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, Strict

from finetune.config.task import Task

# Strict: pydantic would read `true` as 1 elsewhere.
Whole = Annotated[int, Strict()]
Positive = Annotated[Whole, Field(gt=0)]
Count = Annotated[Whole, Field(ge=0)]
Number = Annotated[float, Strict()]
Share = Annotated[Number, Field(ge=0, lt=1)]
Switch = Annotated[bool, Strict()]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$", max_length=128)]
"""Names a folder, so that it leads to no other."""
Closed: Any = {"extra": "forbid"}
DType = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(kw_only=True)
class DatasetConfig:
    """Where rows come from, which splits they make, and which columns matter."""

    __pydantic_config__: ClassVar[Any] = Closed

    path: Text
    """Hub id, file, folder, or `recipes://…` for data that ships with the recipes."""
    name: str | None = None
    """The Hub data set's configuration."""
    revision: str | None = None
    data_files: str | list[str] | dict[str, str | list[str]] | None = None
    format: Literal["auto", "csv", "json", "parquet", "arrow", "text"] = "auto"
    train_split: str = "train"
    validation_split: str | None = None
    """None takes `validation`, `valid`, `val` or `dev`, and where there is none cuts `validation_size` from train."""
    test_split: str | None = None
    """Prepared where it is named, for `finetune evaluate RUN --split test`. Many Hub sets hide its labels."""
    validation_size: Annotated[Number, Field(gt=0, lt=1)] | Positive = 0.1
    """A share of train, or a number of rows, for a validation split that is cut."""
    stratify: Switch = False
    """Cut so that every label keeps its share."""
    columns: dict[str, str] = field(default_factory=dict)
    """Role to column name; what is left out is detected and shown."""
    limit: Positive | None = None
    """At most this many rows of each split, the first ones."""
    max_dropped: Share = 0.01
    """The largest share of a split that may be dropped."""


@dataclass(kw_only=True)
class TokenizerConfig:
    """How text becomes tokens, where the model's own way is not wanted."""

    __pydantic_config__: ClassVar[Any] = Closed

    path: str | None = None
    """None takes the model's own."""
    revision: str | None = None
    max_length: Positive | None = None
    """Tokens a row may have. None takes the model's limit."""
    chat_template: str | None = None
    """A Jinja template or the path of one; None takes the tokenizer's own."""
    pad_token: str | None = None


@dataclass(kw_only=True)
class ModelConfig:
    """Which weights are trained, and how they are loaded."""

    __pydantic_config__: ClassVar[Any] = Closed

    path: Text
    """Hub id, folder, or `package://name/folder` for weights inside an installed package."""
    fallback_path: str | None = None
    """Taken, and said, when `path` is a Hub id and the Hub cannot be reached. May be a GGUF file."""
    fallback_for: str | None = None
    """The `path` that the fallback stands for; any other path has none."""
    base_id: str | None = None
    """The Hub id of the same weights, written into a published adapter when `path` is not one itself."""
    revision: str | None = None
    sha256: str | None = None
    """The SHA-256 of `model.safetensors`; loading refuses anything else."""
    dtype: DType = "auto"
    """Of the frozen weights. auto keeps what the checkpoint stores."""
    attn_implementation: str | None = None
    trust_remote_code: Switch = False
    config: dict[str, Any] = field(default_factory=dict)
    """Values of the model's own config, such as dropout."""


@dataclass(kw_only=True)
class PrecisionConfig:
    """The number formats of computing and of trained weights."""

    __pydantic_config__: ClassVar[Any] = Closed

    compute: DType = "auto"
    """Of matrix products (autocast). auto is bf16 where the machine multiplies it natively, else fp32."""
    trainable: Literal["fp32", "bf16"] = "fp32"
    """Of trained weights. bf16 cannot hold small updates: at a learning rate of 1e-5, 96 % never move."""


@dataclass(kw_only=True)
class GenerationConfig:
    """Which rows are answered after training, and how answers are compared."""

    __pydantic_config__: ClassVar[Any] = Closed

    rows: Count = 0
    """Validation rows answered by generation after training; 0 generates nothing."""
    max_new_tokens: Positive = 256
    generation_config: dict[str, Any] = field(default_factory=dict)
    """Options of transformers' GenerationConfig, such as `temperature`; without any, decoding is greedy."""
    answer_pattern: str | None = None
    """A regular expression whose first group is the answer to compare, such as `#### (.+)`."""


@dataclass(kw_only=True)
class EvaluationConfig:
    """What is measured, and on what."""

    __pydantic_config__: ClassVar[Any] = Closed

    metrics: list[str] | None = None
    """None takes the task's own."""
    baseline: Switch = True
    """Score the untouched model on the same rows first."""
    batch_size: Positive | None = None
    """None takes `trainer.per_device_eval_batch_size`, else the size of training."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)


@dataclass(kw_only=True)
class TrackingConfig:
    """Where numbers are sent while training."""

    __pydantic_config__: ClassVar[Any] = Closed

    report_to: list[Literal["wandb", "trackio", "tensorboard"]] = field(default_factory=list)
    project: str = "finetune"
    online: Switch = False
    """Where the tracker can stay on this machine, it does unless this is set."""


@dataclass(kw_only=True)
class PublishConfig:
    """Whether and where the verified model is uploaded."""

    __pydantic_config__: ClassVar[Any] = Closed

    to: Literal["none", "hub"] = "none"
    repo_id: str | None = None
    private: Switch = True
    commit_message: str = "Upload fine-tuned model"


@dataclass(kw_only=True)
class PlanConfig:
    """What a plan is made for, and which of its findings are accepted."""

    __pydantic_config__: ClassVar[Any] = Closed

    device: str | None = None
    """The accelerator the run is meant for, such as h200, a100_80gb or rtx4090; None is the one present."""
    throughput: Annotated[Number, Field(gt=0)] | None = None
    """Tokens per second of one device, where they are known; the time is estimated from it."""
    waive: list[str] = field(default_factory=list)
    """Checks whose failure is accepted, by name. Each stays in the plan, marked as waived."""


@dataclass(kw_only=True)
class Config:
    """A whole run, as resolved."""

    __pydantic_config__: ClassVar[Any] = Closed

    task: SerializeAsAny[Task]
    dataset: DatasetConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    quantization: dict[str, Any]
    adapter: dict[str, Any]
    trainer: dict[str, Any]
    precision: PrecisionConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    publish: PublishConfig
    plan: PlanConfig = field(default_factory=PlanConfig)
    global_batch_size: Positive | None = None
    """Rows per optimizer step over all devices. None takes per-device size x devices x accumulation."""
    seed: Whole = 42
    name: Name = "run"
    """Names the folder of the run; the recipe's name unless set."""
    output_dir: Text = "runs"
