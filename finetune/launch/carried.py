"""What a run takes along to machines that see none of this one's folders: its recipe, and where things lie there.

Knows plans and paths; nothing of pods or of clouds. Asks nobody anything.
"""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.config.check import dump
from finetune.config.launch import LaunchConfig
from finetune.config.schema import Config
from finetune.config.written import literal
from finetune.errors import UserError

PATHS = ("path", "fallback_path", "chat_template", "data_files", "metrics", "resume_from_checkpoint")
"""Keys that may name a file of this machine."""
LEFT = ("launch", "sweep", "run_folder")
"""What is not of the run, but of how and where it is started."""
HOME = "~"


@dataclass(frozen=True)
class Carried:
    """A run as other machines begin it."""

    recipe: str
    """The whole config as one recipe: whatever starts the ranks there says how many there are."""
    folder: str
    """Of the run, there."""
    files: tuple[str, ...]
    """Absolute paths of this machine that the recipe reads under the same name there."""


def carried(config: Config) -> Carried:
    """What goes along.

    Raises:
        UserError: the folder of the run would not be on the volume.
    """
    values = {key: value for key, value in dump(config).items() if key not in LEFT}
    files = tuple(dict.fromkeys(_made_absolute(values)))
    folder = _folder(config)
    refuse_outside(config.launch.mount, "run_folder, or output_dir", folder)
    return Carried(as_yaml(values), folder, files)


def refuse_outside(mount: str | None, key: str, path: str) -> None:
    """Refuse a path that the volume does not hold.

    Raises:
        UserError: it is elsewhere.
    """
    if mount and not Path(path).is_relative_to(mount):
        raise UserError(f"{key}: {path} is not below {mount}, where the volume is, and the nodes share nothing else")


def _folder(config: Config) -> str:
    """One of the same name for every start, so that a start after the first goes on."""
    return str(Path(config.launch.mount or HOME, config.run_folder or Path(config.output_dir, config.name)))


def _made_absolute(node: Any, key: str = "") -> Iterator[str]:
    """The files that a plain config names, which are absolute in it from now on."""
    items = list(node.items() if isinstance(node, dict) else enumerate(node))
    for name, value in items:
        key = name if isinstance(name, str) else key
        if isinstance(value, dict | list):
            yield from _made_absolute(value, key)
        elif key in PATHS and isinstance(value, str) and _is_here(value):
            node[name] = os.path.normpath(Path(value).expanduser().absolute())
            yield node[name]


def _is_here(value: str) -> bool:
    try:
        return bool(value) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # a template is no path, and may be too long for one
        return False


def variables(launch: LaunchConfig) -> dict[str, str]:
    """What the environment of the ranks says."""
    caches = {"HF_HOME": f"{launch.mount}/huggingface", "XDG_CACHE_HOME": f"{launch.mount}/cache"}
    # NCCL is silent by default, also about why it fails.
    found = {"NCCL_DEBUG": "WARN", **(caches if launch.mount else {})}
    return found | {name: str(value) for name, value in launch.environment.items()}


def setup(launch: LaunchConfig) -> str:
    """The user's own commands.

    Raises:
        UserError: they cannot be read.
    """
    if launch.setup is None:
        return ""
    try:
        text = Path(launch.setup).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"launch.setup={launch.setup} cannot be read: {error}") from None
    return text if text.endswith("\n") else f"{text}\n"


def ranks(launch: LaunchConfig, each: int, meeting: str, train: list[str]) -> str:
    """The shell's words that start the ranks of a node.

    Args:
        each: ranks of a node.
        meeting: which node this is and where all of them meet, in torchrun's words and the shell's variables.
        train: the arguments of `finetune train`.
    """
    words = [f"--nnodes={launch.nodes}", f"--nproc-per-node={each}", f"--shutdown-timeout={launch.grace_seconds}"]
    if launch.nodes > 1:
        port = [f"--master-port={launch.rdzv_port}"] if launch.rdzv_port else []
        words += [*port, f"--rdzv-conf=timeout={launch.rdzv_timeout}"]
    python = launch.python or "python3"
    return " ".join([
        shlex.quote(python), "-m finetune.launch.elastic", *words, *([meeting] if launch.nodes > 1 else []),
        "-m finetune train", *map(shlex.quote, train),
    ])  # fmt: skip


def train(recipe: str, folder: str) -> list[str]:
    """The arguments of `finetune train`."""
    return [f"recipe={recipe}", literal(f"run_folder={folder}")]


class _Readable(yaml.SafeDumper):
    """Texts of several lines as they are."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Readable.add_representer(str, _text)


def as_yaml(*documents: Any) -> str:
    """Plain values as YAML that can be read."""
    text: str = yaml.dump_all(documents, Dumper=_Readable, sort_keys=False, allow_unicode=True)
    return text
