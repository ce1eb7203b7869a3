"""Facts that take imports or seconds to find, kept on disk under a key of the installed versions.

Safe to delete, never stale. Knows files and versions; knows nothing of what the facts say.
"""

import hashlib
import json
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

DERIVING = ("cache", "options", "derive", "nested", "bounds")
"""The modules that decide what is derived, and how."""
LIBRARIES = ("transformers", "trl", "peft", "accelerate", "torch", "pydantic", "bitsandbytes", "sentence-transformers")


def cache_folder() -> Path:
    """Where everything that can be made again is kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "finetune"


def kept(name: str, make: Callable[[], Any], is_whole: Callable[[Any], bool]) -> Any:
    """The JSON-able value called `name`: read where a whole one is stored, else made and stored.

    Args:
        name: of the value; what it depends on besides the installed versions is part of the name.
        is_whole: whether what a file holds is what was stored.
    """
    file = cache_folder() / "options" / f"{name}-{installed()}.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    return found if is_whole(found) else _keep(file, make())


def digest(value: Any) -> str:
    """A short name for a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def installed() -> str:
    """A hash of the versions of the libraries, and of our code that derives facts from them."""

    def of_library(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "none"

    code = [Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8") for name in DERIVING]
    return digest([code, *map(of_library, LIBRARIES)])


def _keep(file: Path, found: Any) -> Any:
    """Store what was made; a cache that cannot be written costs time, not the run."""
    staged = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(json.dumps(found), encoding="utf-8")
        staged.replace(file)
    except OSError:
        pass
    return found
