"""How a run is started: in this process, in several of this machine, or as a job of a cluster. Plain values."""

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from finetune.config.types import Closed, Positive, Switch, Text, Whole

LOCAL: Final = "local"
TORCHRUN: Final = "torchrun"
SLURM: Final = "slurm"
KUBERNETES: Final = "kubernetes"
SKYPILOT: Final = "skypilot"
RAY: Final = "ray"
RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""With these, making the trainer's arguments already waits for the other processes."""

PATTERNS = {
    # Of a line that begins with #SBATCH: nothing ends it, is quoted in it, or begins a comment.
    r"^[^\s\"'`$\\#%\x00-\x1f\x7f]+$": "a word, without blanks, quotes, or any of $ # % \\",
    r"^[\w.-]+:[1-9]\d*$": "their type and number, such as a100:4",
    r"^[1-9]\d*[KMGT]?$": "a size as SLURM writes it, such as 64G",
    r"^(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})$": "a time as SLURM writes it, such as 04:00:00 or 2-12",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "the name of a variable",
    r"^[a-z][a-z0-9-]*$": "an option of sbatch, without its dashes",
    r"^[^\x00-\x1f\x7f]*$": "one line of text",
    r"^[A-Za-z0-9][\w.-]*:/[\w./-]+$": "its name and an absolute path, such as training:/shared",
    r"^([a-z0-9.-]+/)?[A-Za-z0-9][\w.-]*$": "the key of a label, such as nvidia.com/gpu.product",
}
"""What a text must match, and how that is said."""
_word, _gpus, _memory, _duration, _variable, _option, _line, _mount, _label = PATTERNS
Word = Annotated[str, Field(pattern=_word, max_length=256)]
Gpus = Annotated[str, Field(pattern=_gpus)]
Memory = Annotated[str, Field(pattern=_memory)]
Duration = Annotated[str, Field(pattern=_duration)]
Variable = Annotated[str, Field(pattern=_variable)]
Option = Annotated[str, Field(pattern=_option)]
Line = Annotated[str, Field(pattern=_line)]
Mount = Annotated[str, Field(pattern=_mount)]
Label = Annotated[str, Field(pattern=_label)]


@dataclass(kw_only=True)
class LaunchConfig:
    """Where the processes of a run are, and how many. What follows `nodes` is asked of a cluster."""

    __pydantic_config__: ClassVar[Any] = Closed

    method: Literal["local", "torchrun", "slurm", "kubernetes", "skypilot", "ray"] = LOCAL
    nproc_per_node: Positive | Literal["auto"] = "auto"
    """Processes a machine, by torchrun's name; auto is one for each accelerator."""
    nodes: Positive = 1
    """Machines."""

    gpus_per_node: Positive | Gpus | None = None
    """GPUs of a node, also by the cluster's name of their type: a100:4."""
    cpus_per_node: Positive | None = None
    """Processors of a node, for all its processes together."""
    mem: Memory | Positive | None = None
    """Memory of a node; a number alone is MB."""
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    """Features that the nodes must have."""
    time: Duration | Positive | None = None
    """The longest a start of the job may take; a number alone is minutes. None is the limit of the partition."""
    grace_seconds: Positive = 120
    """How long before the time limit the ranks are asked to stop: it must be enough for a checkpoint."""
    requeue: Switch = True
    """Queue a job again that was stopped at a checkpoint, or lost its node."""
    modules: list[Word] = field(default_factory=list)
    """Environment modules to load."""
    setup: Text | None = None
    """A file of shell commands that go before the ranks, such as one that activates an environment. In SLURM it is
    sourced on the first node; elsewhere what it says now is run on each."""
    environment: dict[Variable, Line | Whole] = field(default_factory=dict)
    """Variables of the ranks, such as NCCL_SOCKET_IFNAME."""
    container_image: Word | None = None
    """An image that the ranks run in; in SLURM by the cluster's container plug-in (pyxis)."""
    container_mounts: list[Word] = field(default_factory=list)
    """SOURCE:TARGET. The folders of the run and of the prepared rows are mounted anyway."""
    python: Line | None = None
    """The interpreter on the nodes. None is this one; in a container, python3."""
    sbatch: dict[Option, Word | Whole | Switch] = field(default_factory=dict)
    """Further options of sbatch, by their long names; true is one without a value, false leaves one out."""
    volume: Mount | None = None
    """NAME:PATH. A volume that all nodes mount, for runs, prepared rows and weights: a PersistentVolumeClaim, or a
    volume of SkyPilot."""
    secret_name: Word | None = None
    """What holds credentials such as HF_TOKEN: a Secret of Kubernetes, or a variable of `sky launch --secret`."""
    node_selector: dict[Label, Word] = field(default_factory=dict)
    """Labels that the nodes must have, such as nvidia.com/gpu.product."""
    address: Line | None = None
    """Of the head of a Ray cluster, such as http://head:8265. None is RAY_ADDRESS, or a cluster of this machine."""
    rdzv_port: Annotated[int, Field(strict=True, ge=1024, le=65535)] | None = None
    """Where the nodes meet, on the first one. None follows from the number of a job of SLURM, else is torchrun's."""
    rdzv_timeout: Positive = 600
    """Seconds that the nodes wait for each other: a container may take minutes on one of them."""
    follow: Switch = False
    """Wait for the job and show what it says."""

    @property
    def is_job(self) -> bool:
        """Whether other machines than this one train."""
        return self.method in READ_BY

    @property
    def gpus(self) -> int:
        """GPUs of a node of a job; 0 trains on processors."""
        return int(str(self.gpus_per_node or 0).rpartition(":")[2])

    @property
    def mebibytes(self) -> float | None:
        """Memory of a node of a job."""
        text = str(self.mem or "")
        number, unit = (text, "M") if text.isdecimal() else (text[:-1], text[-1:])
        return int(number) * 1024.0 ** ("KMGT".index(unit) - 1) if text else None

    @property
    def mount(self) -> str | None:
        """Where the volume is."""
        return self.volume.partition(":")[2] if self.volume else None


OF_A_JOB = tuple(each.name for each in fields(LaunchConfig) if each.name not in ("method", "nproc_per_node", "nodes"))
"""The keys that only a job of a cluster reads."""
_ANY_JOB = ("gpus_per_node", "cpus_per_node", "mem", "grace_seconds", "requeue", "setup", "environment",
            "container_image", "python", "rdzv_port", "rdzv_timeout")  # fmt: skip
READ_BY: Final[dict[str, tuple[str, ...]]] = {
    SLURM: (*_ANY_JOB, "partition", "account", "qos", "constraint", "time", "modules", "container_mounts", "sbatch",
            "follow"),
    KUBERNETES: (*_ANY_JOB, "time", "volume", "secret_name", "node_selector"),
    SKYPILOT: (*_ANY_JOB, "volume", "secret_name"),
    RAY: ("gpus_per_node", "cpus_per_node", "mem", "grace_seconds", "python", "address"),
}  # fmt: skip
"""Of these keys, those that each kind of job reads."""

ITSELF = "itself, so that a run stops at a checkpoint and goes on"
SET_BY = {
    **{name: f"launch.{name}" for name in ("nodes", "mem", "partition", "account", "qos", "constraint", "time")},
    "gpus-per-node": "launch.gpus_per_node",
    "cpus-per-task": "launch.cpus_per_node",
    "signal": "launch.grace_seconds",
    "requeue": "launch.requeue",
    "no-requeue": "launch.requeue",
    "job-name": "name",
    "output": "run_folder",
    **dict.fromkeys(("error", "open-mode", "ntasks", "ntasks-per-node", "array", "wrap", "chdir", "export"), ITSELF),
}
"""Options of sbatch that the script has already, and the key that sets each."""
