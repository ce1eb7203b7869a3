"""Keys that cannot stand together: each pair is known here by name, with what to write instead."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune.config.compose import Composed
from finetune.config.launch import SET_BY
from finetune.config.origin import nearest_origin
from finetune.config.places import Chosen
from finetune.config.unread import OFF, Read, reader
from finetune.errors import Problem

CHECKPOINTED = "trainer.activation_checkpointing"
PATIENCE = "evaluation.early_stopping_patience"
# Prefixes reach the layers as a cache, and recomputed layers get none.
USES_CACHE = ("prefix_tuning", "cartridge")


@dataclass(frozen=True)
class Conflict:
    """Two keys at odds."""

    key: str
    other: str
    holds: Callable[[Read], bool]
    because: str
    write: str


CONFLICTS = (
    Conflict(
        "model.from_config",
        "adapter.method",
        lambda read: read("model.from_config") is True and read("adapter.method") != "full",
        "an adapter over random weights would leave them random.",
        "Write adapter=full, or leave model.from_config out",
    ),
    Conflict(
        "adapter.method",
        "quantization.method",
        lambda read: read("adapter.method") == "full" and read("quantization.method") not in ("none", None),
        "a quantized base is frozen, so adapter=full would train nothing of it.",
        "Write adapter=qlora, or quantization=none",
    ),
    Conflict(
        "precision.trainable",
        "precision.compute",
        lambda read: read("precision.compute") == "fp16" and read("precision.trainable") == "bf16",
        "the loss scaler of fp16 needs trained weights in fp32.",
        "Write precision=bf16_pure, or leave precision.trainable out",
    ),
    Conflict(
        "publish.repo_id",
        "publish.to",
        lambda read: read("publish.to") == "hub" and not read("publish.repo_id"),
        "publish=hub needs the repository to publish to.",
        "Write publish.repo_id=me/my-model",
    ),
    Conflict(
        "launch.container_image",
        "launch.method",
        lambda read: read("launch.method") == "kubernetes" and not read("launch.container_image"),
        "a pod runs an image.",
        "Write launch.container_image=IMAGE of one that has finetune",
    ),
    Conflict(
        "launch.volume",
        "launch.method",
        lambda read: read("launch.method") == "kubernetes" and not read("launch.volume"),
        "a pod that is started again finds nothing but what lies on a volume.",
        "Write launch.volume=CLAIM:/PATH",
    ),
    Conflict(
        "launch.volume",
        "launch.nodes",
        lambda read: (
            read("launch.method") == "skypilot" and (read("launch.nodes") or 1) > 1 and not read("launch.volume")
        ),
        "the folder of a run must be seen by all nodes.",
        "Write launch.volume=NAME:/PATH",
    ),
    Conflict(
        "launch.nodes",
        "launch.method",
        lambda read: read("launch.method") == "ray" and (read("launch.nodes") or 1) > 1,
        "a job of Ray has the devices of one machine.",
        "Leave launch.nodes out; launch=slurm gives a trial several",
    ),
    Conflict(
        "launch.setup",
        "launch.method",
        lambda read: (
            read("launch.method") == "skypilot" and not (read("launch.setup") or read("launch.container_image"))
        ),
        "a machine that SkyPilot rents is empty.",
        "Write launch.setup=FILE with the commands that install finetune, or launch.container_image=IMAGE",
    ),
    Conflict(
        CHECKPOINTED,
        "adapter.method",
        lambda read: read("adapter.method") in USES_CACHE and read(CHECKPOINTED) not in OFF,
        "this adapter reaches the layers as a cache, and layers that are computed again get none.",
        f"Write {CHECKPOINTED}=false",
    ),
    Conflict(
        PATIENCE,
        "trainer.load_best_model_at_end",
        lambda read: read(PATIENCE) is not None and read("trainer.load_best_model_at_end") is not True,
        "where training stops early, the best model is the one before it, and is kept.",
        "Write trainer.load_best_model_at_end=true, with trainer.eval_strategy and trainer.save_strategy",
    ),
    Conflict(
        "trainer.load_best_model_at_end",
        "trainer.eval_strategy",
        lambda read: read("trainer.load_best_model_at_end") is True and read("trainer.eval_strategy") in OFF,
        "no model is the best where none is scored while training.",
        "Write trainer.eval_strategy=epoch, or leave it out",
    ),
    Conflict(
        "trainer.load_best_model_at_end",
        "trainer.save_strategy",
        lambda read: (
            read("trainer.load_best_model_at_end") is True
            and read("trainer.eval_strategy") not in OFF
            and read("trainer.save_strategy") not in ("best", read("trainer.eval_strategy"))
        ),
        "the best model can only be loaded where each scored one is saved.",
        "Write trainer.save_strategy as trainer.eval_strategy",
    ),
    Conflict(
        "trainer.load_best_model_at_end",
        "trainer.save_steps",
        lambda read: (
            read("trainer.load_best_model_at_end") is True
            and read("trainer.eval_strategy") == read("trainer.save_strategy") == "steps"
            and read("trainer.save_steps") != (read("trainer.eval_steps") or read("trainer.logging_steps"))
        ),
        "the best model can only be loaded where each scored one is saved.",
        "Write trainer.save_steps as trainer.eval_steps, which is trainer.logging_steps where it is left out",
    ),
)


def problems(composed: Composed, chosen: Chosen) -> Iterator[Problem]:
    """Every pair of keys that cannot stand together."""
    read = reader(composed, chosen)
    yield from _twice(read, composed)
    for each in CONFLICTS:
        if each.holds(read):
            where = nearest_origin(each.key, composed.origins)
            against = nearest_origin(each.other, composed.origins)
            yield Problem(each.key, where, f"conflicts with {each.other} ({against}): {each.because}", each.write)


def _twice(read: Read, composed: Composed) -> Iterator[Problem]:
    """Options of sbatch that another key sets."""
    for name in read("launch.sbatch") or ():
        if name in SET_BY:
            key = f"launch.sbatch.{name}"
            what = f"the script sets --{name} by {SET_BY[name]}."
            yield Problem(key, nearest_origin(key, composed.origins), what, "Leave it out.")
