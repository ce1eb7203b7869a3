"""The keys that are ours: one dataclass a group, with types, limits and the reason of each default.

Plain dataclasses, read by pydantic. Imports no torch and no Hugging Face library. The libraries' own options
(`trainer`, `adapter`, `quantization`) stay open mappings here and are checked against the installed versions in
`theirs.py`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from finetune.config.data import DatasetConfig, PackingConfig
from finetune.config.launch import LaunchConfig
from finetune.config.parallel import ParallelConfig
from finetune.config.sweep import SweepConfig
from finetune.config.task import Task
from finetune.config.types import Closed, Count, DType, Name, Number, Positive, Switch, Text, Whole


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
    from_config: Switch = False
    """Begin with random weights: of `path` only config and tokenizer are read."""
    ignore_mismatched_sizes: Switch = False
    """Learn other labels than those of the model's own head, which is drawn anew where its size is another."""
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

    rows: Count | Literal["all"] | None = None
    """Validation rows answered after training, and before it for the baseline. None takes the task's own: all where
    its score is one of answers, else 0."""
    metrics: list[str] | None = None
    """Metrics of the answers, such as chrf or rougeL. None takes the task's own, else the share that is exact."""
    max_new_tokens: Positive | None = None
    """Tokens of an answer. None takes the task's own: 256, or task.max_target_length."""
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
    early_stopping_patience: Positive | None = None
    """Stop training after this many evaluations without a better `trainer.metric_for_best_model`."""
    early_stopping_threshold: Annotated[Number, Field(ge=0)] = 0.0
    """By how much a score must be better to count as better."""
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
class CheckpointConfig:
    """How a run goes on after it was stopped. How often and how many: `trainer.save_steps`, `save_total_limit`."""

    __pydantic_config__: ClassVar[Any] = Closed

    accept: list[str] = field(default_factory=list)
    """What may differ from what the run began with, by the names a refusal gives."""
    rehearse: bool = True
    """Write, check and delete a checkpoint before the first step."""


@dataclass(kw_only=True)
class GuardsConfig:
    """What stops a run whose loss looks like any other's while the model is ruined."""

    __pydantic_config__: ClassVar[Any] = Closed

    non_finite: Literal["stop", "skip", "rollback"] = "stop"
    """Loss or gradient is no number. skip leaves that step out, rollback all steps since the last checkpoint."""
    spike: Literal["off", "warn", "stop", "rollback"] = "warn"
    """The loss leaves its recent values by more than six of their standard deviations."""
    untrained: Literal["off", "warn", "stop"] = "stop"
    """A weight that is to be trained gets no gradient in the first steps, or a step has nothing to train on."""
    longest_first: bool = True
    """Try the longest rows before the first step, so that what does not fit in memory fails at once."""


@dataclass(kw_only=True)
class SeedsConfig:
    """One seed for each purpose; None takes `seed`."""

    __pydantic_config__: ClassVar[Any] = Closed

    init: Whole | None = None
    """Of fresh weights: heads and adapters."""
    data: Whole | None = None
    """Of the order of rows, and of what collators draw."""
    dropout: Whole | None = None
    """Of what the model draws while it trains."""


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
    packing: PackingConfig = field(default_factory=PackingConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    global_batch_size: Positive | None = None
    """Rows per optimizer step over all devices. None takes per-device size x devices x accumulation."""
    seed: Whole = 42
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)
    name: Name = "run"
    """Names the folder of the run; the recipe's name unless set."""
    output_dir: Text = "runs"
    run_folder: str | None = None
    """The very folder of the run, which goes on where it holds one. None makes a new one: output_dir/name/TIME."""

    @property
    def scored_rows(self) -> int | None:
        """How many rows a device scores at once; None for as many as it trains."""
        given: int | None = self.evaluation.batch_size or self.trainer.get("per_device_eval_batch_size")
        return given

    @property
    def answer_rows(self) -> int | None:
        """How many validation rows are answered; None for all of them."""
        rows = self.evaluation.generation.rows
        rows = self.task.answer_rows if rows is None else rows
        return None if rows == "all" else rows
