"""The real Hub client against the Hub of `hub_server`."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import OTHER_TOKEN, READ_TOKEN, WRITE_TOKEN, Hub, serve
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_session
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

REPO = "alice/model"

needs_xet = pytest.mark.skipif(importlib.util.find_spec("hf_xet") is None, reason="hf_xet is not installed")

UPLOAD_TWICE = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo(sys.argv[1], private=True)
for _ in range(2):
    api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])
"""

DOWNLOAD = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], local_dir=sys.argv[2])
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


@pytest.fixture
def api(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    """A client in this process, by LFS, whatever the environment says."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return HfApi(endpoint=hub.url, token=WRITE_TOKEN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "checkpoint" / "state.json").write_text('{"step": 3}')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Model\n")
    (folder / "model.safetensors").write_bytes(safetensors())
    return folder


def safetensors() -> bytes:
    """One tensor, of several of Xet's chunks (64 KiB on average)."""
    values = b"".join(struct.pack("<I", number * 2654435761 % 2**32) for number in range(60_000))
    about = {"weight": {"dtype": "I32", "shape": [60_000], "data_offsets": [0, len(values)]}}
    header = json.dumps(about).encode()
    return struct.pack("<Q", len(header)) + header + values


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def run_client(hub: Hub, home: Path, script: str, *arguments: object, disable_xet: str = "1") -> None:
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITE_TOKEN, "HF_HOME": str(home)}
    settings |= {"HF_HUB_DISABLE_XET": disable_xet, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    run = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def asked(hub: Hub, part: str) -> list[int]:
    """The status of each request whose path has this part."""
    return [request.status for request in hub.requests if part in request.path]


@pytest.mark.parametrize("disable_xet", [pytest.param("1", id="lfs"), pytest.param("0", id="xet", marks=needs_xet)])
def test_a_folder_comes_back_as_it_went(hub: Hub, folder: Path, tmp_path: Path, disable_xet: str) -> None:
    run_client(hub, tmp_path / "writer", UPLOAD_TWICE, REPO, folder, disable_xet=disable_xet)
    run_client(hub, tmp_path / "reader", DOWNLOAD, REPO, tmp_path / "back", disable_xet=disable_xet)

    assert contents(tmp_path / "back") == contents(folder) == hub.files(REPO)
    assert hub.repos[REPO].private
    assert asked(hub, "/commit/") == [200], "the second upload changes nothing"
    used = {"lfs": bool(asked(hub, "/lfs/objects/batch")), "xet": bool(asked(hub, "/xet-read-token/"))}
    assert used == {"lfs": disable_xet == "1", "xet": disable_xet == "0"}


@needs_xet
def test_what_xet_uploaded_downloads_without_it(hub: Hub, folder: Path, tmp_path: Path) -> None:
    run_client(hub, tmp_path / "writer", UPLOAD_TWICE, REPO, folder, disable_xet="0")
    run_client(hub, tmp_path / "reader", DOWNLOAD, REPO, tmp_path / "back", disable_xet="1")
    assert contents(tmp_path / "back") == contents(folder)


def test_repositories_of_data_sets(api: HfApi, hub: Hub, folder: Path, tmp_path: Path) -> None:
    api.create_repo("alice/data", repo_type="dataset")
    api.upload_folder(repo_id="alice/data", repo_type="dataset", folder_path=folder)
    back = api.snapshot_download("alice/data", repo_type="dataset", local_dir=tmp_path / "back")
    assert contents(Path(back)) == contents(folder) == hub.files("datasets/alice/data")
    assert not hub.repos["datasets/alice/data"].private


def test_looking_into_a_repository(api: HfApi, hub: Hub, folder: Path) -> None:
    api.create_repo(REPO)
    api.upload_folder(repo_id=REPO, folder_path=folder)
    commit = api.model_info(REPO, files_metadata=True)
    sizes = {file.rfilename: (file.size, file.lfs and file.lfs.size) for file in commit.siblings or ()}
    assert sizes["model.safetensors"] == (len(safetensors()), len(safetensors()))
    assert sizes["checkpoint/state.json"] == (len('{"step": 3}'), None)
    assert api.list_repo_files(REPO) == sorted(contents(folder))
    assert {entry.path for entry in api.list_repo_tree(REPO)} == {path.name for path in folder.iterdir()}
    assert [entry.path for entry in api.list_repo_tree(REPO, "checkpoint")] == ["checkpoint/state.json"]
    assert [entry.path for entry in api.get_paths_info(REPO, ["checkpoint", "absent"])] == ["checkpoint"]
    assert [branch.target_commit for branch in api.list_repo_refs(REPO).branches] == [commit.sha]


def test_commits_delete_and_guard_their_parent(api: HfApi, hub: Hub, folder: Path) -> None:
    api.create_repo(REPO)
    first = api.upload_folder(repo_id=REPO, folder_path=folder)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationDelete("checkpoint/"),
        CommitOperationDelete("README.md"),
        CommitOperationAdd("config.json", b"{}"),
    ]
    api.create_commit(REPO, operations, commit_message="less", parent_commit=first.oid)
    assert hub.files(REPO) == {"config.json": b"{}", "model.safetensors": safetensors()}
    assert hub.files(REPO, first.oid) == contents(folder)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(REPO, operations[:1], commit_message="late", parent_commit=first.oid)


def test_repositories_are_made_once_and_deleted(api: HfApi, hub: Hub) -> None:
    api.create_repo(REPO)
    api.create_repo(REPO, exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    api.delete_repo(REPO)
    assert not hub.repos
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)


def test_tokens(api: HfApi, hub: Hub) -> None:
    assert api.whoami()["auth"]["accessToken"]["role"] == "write"
    assert api.whoami(token=READ_TOKEN)["name"] == "alice"
    for attempt in (api.whoami, lambda token: api.create_repo(REPO, token=token)):
        with pytest.raises(HfHubHTTPError) as refusal:
            attempt(token="hf_bad")
        assert refusal.value.response.status_code == 401
    for token in (READ_TOKEN, OTHER_TOKEN):
        with pytest.raises(HfHubHTTPError, match="403"):
            api.create_repo(REPO, token=token)


@pytest.mark.parametrize(("token", "status"), [(False, 401), (OTHER_TOKEN, 404)])
def test_a_private_repository_is_hidden(api: HfApi, token: str | bool, status: int) -> None:
    api.create_repo(REPO, private=True)
    api.upload_file(repo_id=REPO, path_in_repo="config.json", path_or_fileobj=b"{}")
    for attempt in (api.repo_info, lambda repo, token: api.hf_hub_download(repo, "config.json", token=token)):
        with pytest.raises(RepositoryNotFoundError) as refusal:
            attempt(REPO, token=token)
        assert refusal.value.response.status_code == status
    assert api.repo_exists(REPO, token=READ_TOKEN)


def test_a_public_repository_is_for_all_to_read_and_its_owner_to_write(api: HfApi) -> None:
    api.create_repo(REPO)
    assert api.list_repo_files(REPO, token=False) == []
    with pytest.raises(HfHubHTTPError, match="403"):
        api.upload_file(repo_id=REPO, path_in_repo="a.json", path_or_fileobj=b"{}", token=OTHER_TOKEN)


def test_what_is_not_there(api: HfApi, tmp_path: Path) -> None:
    api.create_repo(REPO)
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(REPO, "absent.json", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(REPO, "absent.json", revision="absent", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info("alice/absent")


def test_content_is_served_in_ranges(api: HfApi, hub: Hub) -> None:
    api.create_repo(REPO)
    for path in ("letters.txt", "letters.bin"):
        api.upload_file(repo_id=REPO, path_in_repo=path, path_or_fileobj=b"abcdef")
        url = f"{hub.url}/{REPO}/resolve/main/{path}"
        reply = get_session().get(url, headers={"Range": "bytes=2-3"}, follow_redirects=True)
        assert (reply.status_code, reply.content, reply.headers["Content-Range"]) == (206, b"cd", "bytes 2-3/6")
        assert get_session().get(url, headers={"Range": "bytes=9-"}, follow_redirects=True).status_code == 416


def test_the_client_tries_again_after_a_500(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    api.create_repo(REPO)
    api.upload_file(repo_id=REPO, path_in_repo="weights.bin", path_or_fileobj=b"abcdef")
    hub.fail_next(500, path="/lfs/objects/batch")
    api.upload_file(repo_id=REPO, path_in_repo="other.bin", path_or_fileobj=b"ghijkl")
    assert asked(hub, "/lfs/objects/batch") == [200, 500, 200]


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_surfaces_and_leaves_no_commit(api: HfApi, hub: Hub, folder: Path, status: int) -> None:
    api.create_repo(REPO)
    hub.fail_next(status, path="/commit/")
    with pytest.raises(HfHubHTTPError) as refusal:
        api.upload_folder(repo_id=REPO, folder_path=folder)
    assert refusal.value.response.status_code == status
    assert hub.files(REPO) == {}
    api.upload_folder(repo_id=REPO, folder_path=folder)
    assert hub.files(REPO) == contents(folder)


def test_faults_count_down_and_a_429_says_when_to_come_back(api: HfApi, hub: Hub) -> None:
    hub.fail_next(429, times=2, retry_after=7)
    replies = [get_session().get(f"{hub.url}/api/whoami-v2") for _ in range(3)]
    assert [reply.status_code for reply in replies] == [429, 429, 401]
    assert replies[0].headers["Retry-After"] == "7"
    assert hub.requests == [("GET", "/api/whoami-v2", status) for status in (429, 429, 401)]
