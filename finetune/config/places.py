"""Every key there is, and where a name lives: for a key that was written in the wrong place or in another's words."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from finetune.config import options
from finetune.config.schema import Config
from finetune.config.suggest import nearest
from finetune.config.task import Task

RENAMED = {
    "warmup_ratio": "trainer.warmup_steps; below 1 it is a share of all steps",
    "evaluation_strategy": "trainer.eval_strategy",
    "gradient_checkpointing": "trainer.activation_checkpointing",
    "gradient_checkpointing_kwargs": "trainer.activation_checkpointing_kwargs",
    "group_by_length": "trainer.train_sampling_strategy=group_by_length",
    "max_seq_length": "tokenizer.max_length",
    "tokenizer": "the keys of the tokenizer group",
    "logging_dir": "the environment variable TENSORBOARD_LOGGING_DIR",
    "overwrite_output_dir": "nothing: every run has a folder of its own",
    "load_in_4bit": "quantization=bnb_4bit",
    "load_in_8bit": "quantization=bnb_8bit",
    "lr": "trainer.learning_rate",
    "epochs": "trainer.num_train_epochs",
    "batch_size": "trainer.per_device_train_batch_size, or global_batch_size",
}
"""Names people still type, and what is written today."""

OUR_EVALUATION = "nothing: evaluation is finetune's own, batch by batch, in the precision of the run"
EVALUATED_BY_US = (
    "prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps",
    "include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval",
)  # fmt: skip
SHARED_OUT = "parallel=fsdp2, or another of its options"
NO_CHOICE = "the environment variable CUDA_VISIBLE_DEVICES with nothing in it"
OWNED: dict[str, dict[str, str]] = {
    "trainer": {
        "output_dir": "output_dir, at the top",
        "seed": "seed, at the top",
        "data_seed": "seeds.data",
        "enable_jit_checkpoint": "nothing: SIGTERM, SIGUSR1 and SIGINT save a checkpoint and stop",
        "ignore_data_skip": "nothing: a resumed run goes on with the next row",
        "restore_callback_states_from_checkpoint": "nothing: they are",
        "save_only_model": "nothing: a run could not go on from a checkpoint without its optimizer",
        "save_on_each_node": "run_folder, on a filesystem that all nodes share",
        "bf16": "precision=bf16",
        "fp16": "precision=fp16",
        "report_to": "tracking=wandb, tracking=trackio or tracking=tensorboard",
        "push_to_hub": "publish=hub",
        "hub_model_id": "publish.repo_id",
        "hub_private_repo": "publish.private",
        "hub_token": "the environment variable HF_TOKEN; a token in a config would reach files",
        "hub_strategy": "publish=hub",
        "remove_unused_columns": "nothing: the columns are made by the task",
        "disable_tqdm": "nothing: progress is shown by finetune",
        "do_train": "finetune train",
        "do_eval": "finetune evaluate",
        "do_predict": "finetune predict",
        "use_cpu": NO_CHOICE,
        "no_cuda": NO_CHOICE,
        "hub_always_push": "publish=hub: what is verified is pushed, once",
        "hub_revision": "nothing: the verified model is pushed to the main branch",
        "auto_find_batch_size": "trainer.per_device_train_batch_size: the plan closes the arithmetic of batches",
        "label_names": "nothing: labels are named by the task",
        **dict.fromkeys(EVALUATED_BY_US, OUR_EVALUATION),
        **dict.fromkeys(("fsdp", "fsdp_config", "parallelism_config"), SHARED_OUT),
        "deepspeed": "parallel=zero2 or parallel=zero3",
    },
    "adapter": {
        "peft_type": "adapter=METHOD",
        "task_type": "task=NAME",
        "inference_mode": "nothing: an adapter is trained, and frozen when it is saved",
        "base_model_name_or_path": "model.path",
        "revision": "model.revision",
        "auto_mapping": "nothing: it is filled in when the adapter is saved",
        "peft_version": "nothing: it is filled in when the adapter is saved",
    },
    "quantization": {"quant_method": "quantization=METHOD"},
}
"""Options of the libraries that another key decides: group, option, and what is written instead."""


@dataclass(frozen=True)
class Chosen:
    """The classes behind the open groups, as this config chooses them."""

    task: type[Task]
    classes: dict[str, str]
    """Group to the path of the library's class; a group that uses none is left out."""

    def accepted(self, group: str) -> dict[str, options.Option]:
        """The options a library takes in a group, without those that are decided elsewhere."""
        known = options.of(self.classes[group]) if group in self.classes else {}
        renamed = RENAMED if group == "trainer" else {}  # the libraries keep some old names as aliases
        return {name: option for name, option in known.items() if name not in self.owned(group) | renamed}

    def owned(self, group: str) -> dict[str, str]:
        """Option to what is written instead."""
        return OWNED.get(group, {}) | (self.task.owned if group == "trainer" else {})

    def defaults(self) -> dict[str, Any]:
        """Dotted key to its default, ours and the libraries', where it has one."""
        theirs = {
            f"{group}.{name}": option.default
            for group in self.classes
            for name, option in self.accepted(group).items()
        }
        groups = {name: self.task if name == "task" else cls for name, cls in get_type_hints(Config).items()}
        ours = {key: value for name, cls in groups.items() if is_dataclass(cls) for key, value in _defaults(cls, name)}
        return theirs | ours | dict(_defaults(Config, ""))

    def own(self, key: str) -> Any:
        """What the task decides of a key outside of it, where nobody writes it."""
        return {"evaluation.generation.rows": self.task.answer_rows}.get(key)

    def leaves(self) -> Iterator[tuple[str, str]]:
        """The name and the dotted key of everything that can be written one level down."""
        for group, cls in get_type_hints(Config).items():
            known = names_of(self.task if group == "task" else cls) or ["method", *self.accepted(group)]
            yield from ((name, f"{group}.{name}") for name in known if group in self.classes or is_group(group))


def is_group(name: str) -> bool:
    """Whether a top-level key holds keys of ours."""
    return is_dataclass(get_type_hints(Config)[name])


def _defaults(cls: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The defaults of a dataclass and of those in it, by dotted key."""
    for field in fields(cls):
        key = f"{path}.{field.name}" if path else field.name
        if isinstance(field.default_factory, type) and is_dataclass(field.default_factory):
            yield from _defaults(field.default_factory, key)
        elif field.default is not MISSING:
            yield key, field.default
        elif field.default_factory is not MISSING:
            yield key, field.default_factory()


def names_of(cls: Any) -> list[str]:
    """The fields of a dataclass; none for anything else."""
    return [field.name for field in fields(cls)] if is_dataclass(cls) else []


def instead(word: str, chosen: Chosen) -> str:
    """What to write for a word that has no place where it was written; empty where nothing is known of it."""
    if word in RENAMED:
        return f"Write {RENAMED[word]}."
    if exact := [key for name, key in chosen.leaves() if name == word]:
        return f"Did you mean {' or '.join(exact)}?"
    owners = [chosen.owned(group)[word] for group in OWNED if word in chosen.owned(group)]
    return f"Write {owners[0]}." if owners else ""


def nearly(word: str, chosen: Chosen) -> str:
    """The key elsewhere whose name is very like the word; empty where there is none."""
    leaves = dict(chosen.leaves())
    close = nearest(word, leaves, cutoff=0.8)
    return f"Did you mean {leaves[close]}?" if close else ""
