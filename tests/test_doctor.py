"""The doctor says what this machine can do, shows no secret, and fails only where nothing could train."""

import importlib.util
import os
import socket

import pytest
from hub_server import serve
from huggingface_hub import constants
from tiny_runs import finetune

from finetune import console, doctor
from finetune.doctor import EXTRAS, Finding, diagnose
from finetune.errors import MachineError

TOKEN = "hf_" + "A1b2C3d4E5f6G7h8I9j0" * 2


def found() -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose()}


@pytest.fixture
def online(monkeypatch):
    def at(url: str):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.delenv("HF_HUB_OFFLINE")

    return at


def test_a_machine_that_can_train_passes_with_versions_and_device(capsys):
    assert finetune("doctor") == 0
    output = capsys.readouterr().out
    for name in ("torch", "transformers", "peft", "device", "precision=auto", "cache folder"):
        assert name in output


def test_a_token_is_named_and_never_shown(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert finetune("doctor") == 0
    output = capsys.readouterr()
    assert "present" in output.out
    assert TOKEN not in output.out + output.err


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_says_which_to_install(extra, monkeypatch):
    look, missing = importlib.util.find_spec, EXTRAS[extra]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in missing else look(name, *a))
    finding = found()[f"extra {extra}"]
    assert not finding.ok
    assert not finding.needed
    assert f'pip install "finetune-recipes[{extra}]"' in finding.detail
    assert all(package in finding.detail for package in missing)


def test_the_hub_offline():
    assert found()["Hub"].detail.startswith("HF_HUB_OFFLINE is set")


def test_the_hub_within_reach(online):
    with serve() as hub:
        online(hub.url)
        assert found()["Hub"].ok, "even where it has not the model asked for"
        assert "/api/models/hf-internal-testing/tiny-random-bert" in {request.path for request in hub.requests}


def test_the_hub_out_of_reach(online):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        online(f"http://127.0.0.1:{taken.getsockname()[1]}")
        finding = found()["Hub"]
    assert not finding.ok
    assert "not reachable (" in finding.detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_a_machine_that_cannot_train(tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MachineError, match="cannot train yet: cache folder"):
        console.show_diagnosis(diagnose())


def test_a_full_disk_is_a_machine_that_cannot_train(monkeypatch):
    room = type(doctor.shutil.disk_usage("/"))(2**40, 2**40 - 2**20, 2**20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: room)
    with pytest.raises(MachineError, match="cache folder"):
        console.show_diagnosis(diagnose())
