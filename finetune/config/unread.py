"""Keys that are set and that nothing reads in this run: a value that decides nothing misleads whoever wrote it.

Knows which keys a choice makes idle, by name. Only what a user wrote counts, in a recipe or on the command line: a
group's file may set what another choice makes idle.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import recipes
from finetune.config.compose import Composed
from finetune.config.data import is_configured
from finetune.config.launch import OF_A_JOB, READ_BY
from finetune.config.parallel import OFFLOADING
from finetune.config.places import Chosen
from finetune.config.provenance import Setting
from finetune.errors import Problem

Read = Callable[[str], Any]
"""The value of a dotted key; a library's default where it is not set."""


@dataclass(frozen=True)
class Rule:
    """Keys that are idle under a condition."""

    keys: tuple[str, ...]
    idle: Callable[[Read], bool]
    because: str
    """What makes them idle, with `{}` for its value."""
    of: str
    """The key whose value that is."""


def problems(composed: Composed, chosen: Chosen) -> Iterator[Problem]:
    """Every key that is set and unread, where nothing that was written later made it so."""
    for key, idle, decider in _idle(composed, chosen):
        if idle.layer >= _layer(decider, composed):
            what = f"is set, and nothing reads it: {_because(key, composed, chosen)}."
            yield Problem(key, idle.where, what, "Leave it out.")


def overruled(composed: Composed, chosen: Chosen) -> Iterator[str]:
    """The keys that a later choice made idle, as with `trainer.max_steps=10` over a recipe that names epochs."""
    for key, idle, decider in _idle(composed, chosen):
        if idle.layer < _layer(decider, composed):
            yield f"{key} ({idle.where}) is idle: {_because(key, composed, chosen)}"


def _idle(composed: Composed, chosen: Chosen) -> Iterator[tuple[str, Setting, str]]:
    """Each key that is set and unread, where a user wrote it, and the key that decides so."""
    read = reader(composed, chosen)
    foreign = tuple(f"{key}." for key in chosen.task.unread)
    by_rule = [(key, rule.of) for rule in RULES for key in rule.keys if rule.idle(read)]
    found = [(key, decider) for key, decider in by_rule if not key.startswith(foreign)]
    for key, decider in [*found, *((key, "task.name") for key in chosen.task.unread)]:
        setting = _written(key, composed)
        if setting and _changes(key, composed, chosen):
            yield key, setting, decider


def _changes(key: str, composed: Composed, chosen: Chosen) -> bool:
    """Whether what was written last differs from what would hold without it: a dumped config writes every key."""
    below = [name for name in composed.settings if name == key or name.startswith(f"{key}.")]
    return any(_before(name, composed, chosen) != composed.settings[name][-1].value for name in below)


def _before(key: str, composed: Composed, chosen: Chosen) -> Any:
    """What an earlier layer or a default says."""
    *earlier, last = composed.settings[key]
    if isinstance(last.value, dict):
        return last.value
    return earlier[-1].value if earlier else chosen.defaults().get(key)


def _because(key: str, composed: Composed, chosen: Chosen) -> str:
    read = reader(composed, chosen)
    rules = (rule.because.format(read(rule.of)) for rule in RULES if key in rule.keys and rule.idle(read))
    return next(rules, None) or chosen.task.unread[key]


def _layer(key: str, composed: Composed) -> int:
    """How late a user wrote a key; -1 where nobody did."""
    setting = _written(key, composed)
    return setting.layer if setting else -1


def reader(composed: Composed, chosen: Chosen) -> Read:
    """The value of a dotted key as the run would read it."""

    def read(key: str) -> Any:
        node: Any = composed.values
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        group, _, name = key.partition(".")
        option = chosen.accepted(group).get(name) if node is None and group in chosen.classes else None
        return option.default if option else chosen.own(key) if node is None else node

    return read


def _written(key: str, composed: Composed) -> Setting | None:
    """Where a user wrote the key, or something below it, last; None where a group's file or nobody did."""
    below = f"{key}."
    last = [found[-1] for name, found in composed.settings.items() if name == key or name.startswith(below)]
    ours = f"{recipes.CONF.name}/"
    written = [each for each in last if each.value is not None and not each.where.startswith(ours)]
    return max(written, key=lambda each: each.layer, default=None)


def _is_here(path: str) -> bool:
    """Whether a path is no Hub id."""
    return "://" in path or Path(path).expanduser().exists()


def _is_configured(read: Read) -> bool:
    """Whether the data lies in a folder that can declare configurations."""
    return is_configured(Path(str(read("dataset.path"))).expanduser(), read("dataset.data_files"))


def _weighed(read: Read) -> bool:
    """Whether shares of sources are computed; a mixture of one source has a reason of its own."""
    sources = read("dataset.sources") or []
    return not sources or bool(read("dataset.mixture.temperature") or any(each.get("weight") for each in sources))


def _is(key: str, *values: Any) -> Callable[[Read], bool]:
    return lambda read: read(key) in values


def _is_not(key: str, *values: Any) -> Callable[[Read], bool]:
    return lambda read: read(key) not in values


OFF = (None, False, 0, "", "no")
CONSTANT = ("constant", "reduce_lr_on_plateau", "greedy")
"""Schedules without a warm-up."""
ADAM = ("trainer.adam_beta1", "trainer.adam_beta2", "trainer.adam_epsilon")
WITHOUT_ADAM = ("sgd", "adagrad", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "adafactor",
                "lomo", "adalomo")  # fmt: skip

RULES = (
    Rule(("dataset.revision",), lambda read: _is_here(str(read("dataset.path"))),
         "dataset.path={} is a file or folder of this machine", "dataset.path"),
    Rule(("dataset.name",), lambda read: _is_here(str(read("dataset.path"))) and not _is_configured(read),
         "dataset.path={} is read without a README.md that declares configurations", "dataset.path"),
    Rule(("dataset.validation_size", "dataset.stratify"), _is_not("dataset.validation_split", None),
         "no validation split is cut where dataset.validation_split={}", "dataset.validation_split"),
    Rule(("dataset.mixture",), _is("dataset.sources", None, []), "there is one source; write dataset.sources",
         "dataset.sources"),
    Rule(("dataset.mixture.weigh", "dataset.mixture.stopping_strategy"), lambda read: not _weighed(read),
         "no source has a weight, and there is no dataset.mixture.temperature", "dataset.sources"),
    Rule(("task.turn_weight",), _is_not("task.mask", "per_turn"), "task.mask={}", "task.mask"),
    Rule(("task.train_reasoning", "task.train_tool_calls"), _is("task.mask", "all"),
         "task.mask={} trains every token", "task.mask"),
    Rule(("task.overlong",), _is("packing.strategy", "wrapped"), "packing={} cuts a text where a row is full",
         "packing.strategy"),
    Rule(("tokenizer.revision",), _is("tokenizer.path", None), "the tokenizer is the model's own", "tokenizer.path"),
    Rule(("model.revision",), lambda read: _is_here(str(read("model.path"))),
         "model.path={} lies on this machine, where there is one of it", "model.path"),
    Rule(("model.sha256",), _is("model.from_config", True), "model.from_config reads no weights", "model.from_config"),
    Rule(("model.fallback_for",), _is("model.fallback_path", None), "there is no model.fallback_path",
         "model.fallback_path"),
    Rule(("evaluation.early_stopping_threshold",), _is("evaluation.early_stopping_patience", None),
         "training does not stop early; write evaluation.early_stopping_patience",
         "evaluation.early_stopping_patience"),
    Rule(("evaluation.generation.max_new_tokens", "evaluation.generation.answer_pattern",
          "evaluation.generation.metrics", "evaluation.generation.generation_config"),
         _is("evaluation.generation.rows", None, 0), "nothing is generated where evaluation.generation.rows is 0",
         "evaluation.generation.rows"),
    Rule(("trainer.per_device_eval_batch_size",), _is_not("evaluation.batch_size", None),
         "evaluation.batch_size={} decides", "evaluation.batch_size"),
    Rule(("tracking.project", "tracking.online"), _is("tracking.report_to", None, []),
         "no tracker is chosen; write tracking=wandb or another", "tracking.report_to"),
    Rule(("launch.nproc_per_node", "launch.nodes"), _is("launch.method", "local", None),
         "launch={} is this one process; write launch=torchrun", "launch.method"),
    Rule(tuple(f"launch.{name}" for name in OF_A_JOB), _is_not("launch.method", *READ_BY),
         "launch={} queues no job; write launch=slurm", "launch.method"),
    Rule(("parallel.offload",), _is_not("parallel.method", *OFFLOADING),
         "parallel={} keeps nothing in the host's memory", "parallel.method"),
    *(Rule(tuple(f"launch.{name}" for name in OF_A_JOB if name not in read), _is("launch.method", method),
           "launch={} has no such thing", "launch.method") for method, read in READ_BY.items()),
    Rule(("launch.container_mounts",), lambda read: read("launch.method") == "slurm"
         and not read("launch.container_image"), "there is no launch.container_image", "launch.container_image"),
    Rule(("publish.commit_message",), _is("publish.to", None, "none"), "publish.to is none", "publish.to"),
    Rule(("trainer.num_train_epochs",), lambda read: (read("trainer.max_steps") or 0) > 0,
         "trainer.max_steps={} decides how long the run is", "trainer.max_steps"),
    Rule(("trainer.save_steps",), _is_not("trainer.save_strategy", "steps"), "trainer.save_strategy={}",
         "trainer.save_strategy"),
    Rule(("trainer.save_total_limit", "trainer.save_only_model"), _is("trainer.save_strategy", "no", False),
         "trainer.save_strategy={} saves no checkpoint", "trainer.save_strategy"),
    Rule(("trainer.eval_steps",), _is_not("trainer.eval_strategy", "steps"), "trainer.eval_strategy={}",
         "trainer.eval_strategy"),
    Rule(("trainer.eval_delay", "trainer.eval_on_start"), _is("trainer.eval_strategy", "no", None, False),
         "trainer.eval_strategy={} scores nothing while training", "trainer.eval_strategy"),
    Rule(("trainer.logging_steps",), _is_not("trainer.logging_strategy", "steps"), "trainer.logging_strategy={}",
         "trainer.logging_strategy"),
    Rule(("trainer.metric_for_best_model", "trainer.greater_is_better"),
         _is("trainer.load_best_model_at_end", *OFF), "trainer.load_best_model_at_end is off",
         "trainer.load_best_model_at_end"),
    Rule(("trainer.activation_checkpointing_kwargs",), _is("trainer.activation_checkpointing", *OFF),
         "trainer.activation_checkpointing is off", "trainer.activation_checkpointing"),
    Rule(("trainer.liger_kernel_config",), _is("trainer.use_liger_kernel", *OFF), "trainer.use_liger_kernel is off",
         "trainer.use_liger_kernel"),
    Rule(("trainer.dataloader_prefetch_factor", "trainer.dataloader_persistent_workers"),
         _is("trainer.dataloader_num_workers", 0, None), "trainer.dataloader_num_workers is 0",
         "trainer.dataloader_num_workers"),
    Rule(("trainer.warmup_steps",), _is("trainer.lr_scheduler_type", *CONSTANT), "the schedule {} warms nothing up",
         "trainer.lr_scheduler_type"),
    Rule(ADAM, _is("trainer.optim", *WITHOUT_ADAM), "trainer.optim={} has no such number", "trainer.optim"),
    Rule(("trainer.length_column_name",), _is_not("trainer.train_sampling_strategy", "group_by_length"),
         "trainer.train_sampling_strategy={}", "trainer.train_sampling_strategy"),
    Rule(("adapter.loftq_config",), _is_not("adapter.init_lora_weights", "loftq"), "adapter.init_lora_weights={}",
         "adapter.init_lora_weights"),
    Rule(("adapter.eva_config",), _is_not("adapter.init_lora_weights", "eva"), "adapter.init_lora_weights={}",
         "adapter.init_lora_weights"),
    Rule(("adapter.corda_config",), _is_not("adapter.init_lora_weights", "corda"), "adapter.init_lora_weights={}",
         "adapter.init_lora_weights"),
    Rule(("adapter.layers_pattern",), _is("adapter.layers_to_transform", None),
         "adapter.layers_to_transform is not set", "adapter.layers_to_transform"),
    Rule(("quantization.bnb_4bit_quant_type", "quantization.bnb_4bit_use_double_quant",
          "quantization.bnb_4bit_compute_dtype", "quantization.bnb_4bit_quant_storage"),
         _is("quantization.method", "bitsandbytes_8bit"), "quantization.method={}", "quantization.method"),
    Rule(("quantization.llm_int8_threshold", "quantization.llm_int8_has_fp16_weight"),
         _is("quantization.method", "bitsandbytes_4bit"), "quantization.method={}", "quantization.method"),
)  # fmt: skip
