"""The finished model to the Hub: only files on a list, never a secret or a pickle, private unless said otherwise.

A failed push costs nothing: the run is whole, and `finetune publish RUN` repeats it.
"""

import json
import logging
import re
import shutil
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, RepoUrl, get_token
from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

from finetune.artifacts import card
from finetune.artifacts.predict import check_finished
from finetune.config.schema import PublishConfig
from finetune.errors import MachineError, UserError
from finetune.models.source import hub_id
from finetune.plan import frozen
from finetune.plan.checks import check_publishable
from finetune.plan.plan import Plan
from finetune.plan.run_folder import RunFolder

log = logging.getLogger(__name__)
ALLOWED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "base_config/config.json")
STALE = ("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", "base_config/config.json",
         "generation_config.json", "chat_template.jinja", "additional_chat_templates/*")  # fmt: skip
"""What an earlier run may have left in the repository, and what would be loaded in place of this one's."""
SECRETS = re.compile(
    rb"hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY"
)


@dataclass(frozen=True)
class Upload:
    """One file that would leave this machine."""

    name: str
    size: int


def publish(folder: RunFolder, config: PublishConfig) -> str:
    """Upload the model with its card.

    Returns:
        The address of the repository.
    Raises:
        UserError: there is nothing that may be published.
        MachineError: the Hub refused or could not be reached; the run is unharmed.
    """
    plan = frozen.read(folder)
    repo_id = check(folder, plan, config)
    dry_run(folder, plan, config)  # what may not leave this machine is found before a repository is made
    try:
        url = _upload(folder, plan, config, repo_id)
    except (HTTPError, HFValidationError, OSError, RuntimeError) as error:  # hf_xet raises the builtin ones
        raise MachineError(
            f"publishing to {repo_id} failed: {_reason(error)}\n"
            f"The run is whole; repeat with: finetune publish {folder.path}"
        ) from None
    folder.write("published.json", {"repo_id": url.repo_id, "private": config.private, "url": str(url)})
    return str(url)


def _upload(folder: RunFolder, plan: Plan, config: PublishConfig, repo_id: str) -> RepoUrl:
    api = HfApi()
    url = api.create_repo(repo_id, private=config.private, exist_ok=True)
    if api.model_info(url.repo_id).private != config.private:
        said = "public. Write --public" if config.private else "private. Leave --public out, make it public on the Hub"
        raise UserError(f"{url.repo_id} exists and is {said}, or choose another --repo-id")
    with tempfile.TemporaryDirectory() as staged:
        new = {each.name for each in stage(folder, plan, url.repo_id, Path(staged))}
        stale = [name for name in api.list_repo_files(url.repo_id) if _is_stale(name) and name not in new]
        if stale:
            log.warning("removed from %s, as an earlier run's: %s", url.repo_id, ", ".join(stale))
        message = config.commit_message
        api.upload_folder(
            repo_id=url.repo_id, folder_path=staged, commit_message=message, delete_patterns=stale or None
        )
    return url


def _is_stale(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in STALE)


def _reason(error: Exception) -> str:
    """The first line of an error, without the token."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.replace(get_token() or "\0", "the token")


def dry_run(folder: RunFolder, plan: Plan, config: PublishConfig) -> list[Upload]:
    """What `publish` would upload."""
    with tempfile.TemporaryDirectory() as staged:
        return stage(folder, plan, config.repo_id or "model", Path(staged))


def check(folder: RunFolder, plan: Plan, config: PublishConfig) -> str:
    """The repository, once everything that can be known to be wrong is not."""
    check_finished(folder)
    verified = folder.read("verification.json")
    if not verified or not all(finding["passed"] for finding in verified):
        raise UserError(f"{folder.path} was not verified, so it is not published")
    if not config.repo_id:
        raise UserError("publish.repo_id must be set, for example publish.repo_id=me/my-model")
    check_publishable(plan.config)
    return config.repo_id


def stage(folder: RunFolder, plan: Plan, repo_id: str, target: Path) -> list[Upload]:
    """Fill a folder with exactly what is uploaded.

    Raises:
        UserError: a file holds a secret.
    """
    card.write(plan, folder, repo_id, target / "README.md")
    for file in sorted(folder.model.rglob("*")):
        name = file.relative_to(folder.model).as_posix()
        if file.is_file() and any(fnmatch(name, pattern) for pattern in ALLOWED):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / name)
    _name_base(target / "adapter_config.json", plan)
    return [_inspected(file, target) for file in sorted(target.rglob("*")) if file.is_file()]


def _name_base(file: Path, plan: Plan) -> None:
    """A published adapter names its base by Hub id, not by a folder of this machine."""
    if not file.is_file():
        return
    values = json.loads(file.read_text(encoding="utf-8"))
    values["base_model_name_or_path"] = hub_id(plan.config.model)
    values["revision"] = card.base_revision(plan)
    file.write_text(json.dumps(values, indent=2), encoding="utf-8")


def _inspected(file: Path, root: Path) -> Upload:
    content = file.read_bytes()
    if file.suffix != ".safetensors" and SECRETS.search(content):
        raise UserError(f"{file.name} holds what looks like a secret, so nothing was uploaded")
    return Upload(file.relative_to(root).as_posix(), len(content))
