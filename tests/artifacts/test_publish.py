"""Publishing against a Hub on the loopback interface, by the real client."""

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace

import pytest
import torch
from hub_server import OTHER_TOKEN, READ_TOKEN, WRITE_TOKEN, serve
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load_file
from tiny_runs import bert, classify, copy_of, finetune, root, trained

from finetune.artifacts import card
from finetune.artifacts.publish import _name_base
from finetune.artifacts.verify import PROBE_ROWS
from finetune.models.source import Source
from finetune.plan import frozen
from finetune.plan.run_folder import RunFolder

REPO = "alice/model"
TOKEN = "hf_" + "A1b2C3d4E5f6G7h8I9j0" * 2

needs_xet = pytest.mark.skipif(importlib.util.find_spec("hf_xet") is None, reason="hf_xet is not installed")

READ_BACK = """
import sys, torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification as Auto, AutoTokenizer
probe = {name: value for name, value in load_file(sys.argv[1]).items() if name not in ("logits", "labels")}
full = Auto.from_pretrained("alice/full")
config = AutoConfig.from_pretrained("alice/lora", subfolder="base_config")
lora = PeftModel.from_pretrained(Auto.from_pretrained("alice/base", config=config), "alice/lora")
full_words, lora_words = AutoTokenizer.from_pretrained("alice/full"), AutoTokenizer.from_pretrained("alice/lora")
assert full_words.get_vocab() == lora_words.get_vocab()
assert full.config.id2label == lora.config.id2label == {0: "animal", 1: "plant", 2: "stone"}
with torch.no_grad():
    found = {name: model.eval()(**probe).logits for name, model in (("full", full), ("lora", lora))}
save_file(found, sys.argv[2])
"""


@pytest.fixture
def hub():
    with serve() as hub:
        yield hub


@pytest.fixture
def sign_in(hub, monkeypatch):
    """The client of this process, by LFS, as the owner of a token."""

    def with_token(token: str, url: str = hub.url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    with_token(WRITE_TOKEN)
    return with_token


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return copy_of(trained("classify_full"), tmp_path)


def publish(folder: RunFolder, *more: str, repo_id: str = REPO) -> int:
    return finetune("publish", str(folder.path), "--repo-id", repo_id, *more)


def environment(hub, home) -> dict[str, str]:
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": WRITE_TOKEN,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    return {**os.environ, **settings, "XDG_CACHE_HOME": str(root() / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}


def test_what_was_published_is_read_back_equal(hub, sign_in, tmp_path):
    runs = {kind: copy_of(trained(f"classify_{kind}"), tmp_path / kind) for kind in ("full", "lora")}
    HfApi(endpoint=hub.url).create_repo("alice/base")
    HfApi(endpoint=hub.url).upload_folder(repo_id="alice/base", folder_path=bert())
    for kind, folder in runs.items():
        assert publish(folder, repo_id=f"alice/{kind}") == 0
        assert hub.repos[f"alice/{kind}"].private
        assert folder.read("published.json")["repo_id"] == f"alice/{kind}"

    probe, out = runs["full"] / "probe.safetensors", tmp_path / "out.safetensors"
    command = [sys.executable, "-c", READ_BACK, str(probe), str(out)]
    reader = subprocess.run(command, env=environment(hub, tmp_path / "home"), capture_output=True, text=True)
    assert reader.returncode == 0, reader.stderr
    found = load_file(out)
    assert len(found["full"]) == PROBE_ROWS
    for kind, folder in runs.items():
        expected = load_file(folder / "probe.safetensors")["logits"]
        torch.testing.assert_close(found[kind], expected, atol=1e-4, rtol=1e-4)


def test_public_is_said_out_loud(hub, sign_in, run):
    assert publish(run, "--public") == 0
    assert not hub.repos[REPO].private
    assert run.read("published.json")["private"] is False


def test_a_public_repository_does_not_receive_a_private_model(hub, sign_in, run, capsys):
    HfApi(endpoint=hub.url).create_repo(REPO, private=False)
    assert publish(run) == 2
    assert "exists and is public" in capsys.readouterr().err
    assert hub.files(REPO) == {}
    assert publish(run, "--public") == 0


def test_a_dry_run_uploads_nothing_and_lists_what_is_uploaded(hub, sign_in, run, capsys):
    assert publish(run, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {name: int(size.replace(",", "")) for size, name in (line.split() for line in lines[:-1])}
    assert "nothing was uploaded" in lines[-1]
    assert not hub.requests
    assert not (run.model / "README.md").exists()

    assert publish(run) == 0
    assert {name: len(content) for name, content in hub.files(REPO).items()} == listed


@pytest.mark.parametrize("kind", ["classify_full", "classify_lora"])
def test_the_card_holds_the_real_numbers_and_no_path_of_this_machine(kind, hub, sign_in, tmp_path):
    folder = copy_of(trained(kind), tmp_path)
    assert publish(folder) == 0
    files = hub.files(REPO)
    for name, content in files.items():
        assert str(root()).encode() not in content, name
        assert tempfile.gettempdir().encode() not in content, name

    written = ModelCard(files["README.md"].decode())
    scores = folder.read("evaluation.json")
    for name, value in scores["scores"].items():
        assert f"| {name} | {value:.4f} | {scores['baseline'][name]:.4f} |" in written.text
    assert {result.metric_type: result.metric_value for result in written.data.eval_results} == scores["scores"]
    assert written.data.library_name == ("peft" if kind.endswith("lora") else "transformers")
    assert written.data.base_model == ("alice/base" if kind.endswith("lora") else None)
    assert "48 rows of 48 read" in written.text
    if kind.endswith("lora"):
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "alice/base"


def test_pickles_and_unknown_files_stay_here(hub, sign_in, run):
    for name in ("training_args.bin", "optimizer.pt", "notes.py", ".env"):
        (run.model / name).write_bytes(b"\x80\x04 anything")
    assert publish(run) == 0
    assert {name.rpartition(".")[2] for name in hub.files(REPO)} == {"json", "safetensors", "md"}


@pytest.mark.parametrize("secret", [TOKEN, "AKIA" + "Z" * 16, "-----BEGIN RSA PRIVATE KEY-----"])
def test_a_secret_is_found_before_a_repository_is_made(secret, hub, sign_in, run, capsys):
    (run.model / "notes.json").write_text(json.dumps({"key": secret}))
    for more in ((), ("--dry-run",)):
        assert publish(run, *more) == 2
        output = capsys.readouterr()
        assert "notes.json holds what looks like a secret" in output.err
        assert secret not in output.err + output.out
    assert not hub.repos


def test_a_failed_push_costs_nothing_and_is_repeated(hub, sign_in, run, capsys):
    before = contents(run)
    hub.fail_next(500, times=20, path="/commit/")
    assert publish(run) == 3
    message = capsys.readouterr().err
    assert "publishing to alice/model failed: " in message
    assert contents(run) == before
    hub.faults.clear()
    (command,) = re.findall(r"finetune (publish .*)", message)
    assert finetune(*command.split(), "--repo-id", REPO) == 0
    assert "model.safetensors" in hub.files(REPO)


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}


def test_publishing_again_changes_nothing_and_is_no_error(hub, sign_in, run):
    assert publish(run) == 0
    first = hub.files(REPO)
    assert publish(run) == 0
    assert hub.files(REPO) == first


def test_what_an_earlier_run_left_is_not_loaded_in_place_of_this_one(hub, sign_in, tmp_path, capsys):
    """transformers opens an adapter wherever there is one, and a person's own files stay."""
    HfApi(endpoint=hub.url).create_repo("alice/base")
    assert publish(copy_of(trained("classify_lora"), tmp_path / "lora")) == 0
    HfApi(endpoint=hub.url).upload_file(path_or_fileobj=b"{}", path_in_repo="notes.json", repo_id=REPO)
    assert "adapter_config.json" in hub.files(REPO)
    full = copy_of(trained("classify_full"), tmp_path / "full")
    assert publish(full) == 0
    assert f"removed from {REPO}, as an earlier run's: adapter_config.json, " in capsys.readouterr().out
    left = {name for name in hub.files(REPO) if name.startswith(("adapter", "base_config"))}
    assert not left
    assert {"model.safetensors", "config.json", "notes.json", "README.md"} <= set(hub.files(REPO))


def test_an_adapter_names_the_commit_of_its_base(tmp_path):
    made = frozen.read(trained("classify_lora"))
    model = replace(made.config.model, path="alice/base", base_id=None)
    made = replace(made, config=replace(made.config, model=model), source=Source("alice/base", "0123abc"))
    (tmp_path / "adapter_config.json").write_text("{}")
    _name_base(tmp_path / "adapter_config.json", made)
    named = json.loads((tmp_path / "adapter_config.json").read_text())
    assert named == {"base_model_name_or_path": "alice/base", "revision": "0123abc"}
    assert 'from_pretrained("alice/base", config=config, revision="0123abc")' in "\n".join(
        card._adapted(made, "AutoModel", "me/x")
    )


@pytest.mark.parametrize(("token", "status"), [(TOKEN, "401"), (READ_TOKEN, "403"), (OTHER_TOKEN, "403")])
def test_a_refused_token_is_the_machines_fault_and_stays_secret(token, status, hub, sign_in, run, capsys):
    sign_in(token)
    assert publish(run) == 3
    output = capsys.readouterr()
    assert status in output.err
    assert TOKEN not in output.err + output.out
    assert "Traceback" not in output.err


def test_a_hub_that_cannot_be_reached_is_the_machines_fault(sign_in, run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        sign_in(WRITE_TOKEN, f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert publish(run) == 3
    assert "The run is whole" in capsys.readouterr().err


# Not 500: the client of Xet tries again for minutes.
@needs_xet
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_on_the_way_of_xet_is_the_machines_fault(status, hub, sign_in, run, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.fail_next(status, times=20, path="/xet-write-token/")
    assert publish(run) == 3
    assert "The run is whole" in capsys.readouterr().err
    assert hub.files(REPO) == {}


def test_without_a_token_the_message_says_how_to_get_one(sign_in, run, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert publish(run) == 3
    assert "hf auth login" in capsys.readouterr().err


def test_an_adapter_on_a_folder_of_this_machine_needs_the_id_of_its_base(hub, sign_in, tmp_path, capsys):
    assert publish(copy_of(trained("chat_lora"), tmp_path)) == 2
    assert "model.base_id" in capsys.readouterr().err
    assert not hub.repos


@pytest.mark.parametrize("found", [None, [{"name": "logits", "passed": False, "detail": "off"}]])
def test_a_run_that_was_not_verified_is_not_published(found, hub, sign_in, run, capsys):
    (run / "verification.json").unlink()
    if found:
        run.write("verification.json", found)
    assert publish(run) == 2
    assert "was not verified" in capsys.readouterr().err
    assert not hub.requests


def test_a_run_is_published_where_its_recipe_says_or_the_command(sign_in, run, capsys):
    assert finetune("publish", str(run.path)) == 2
    assert "publish.repo_id" in capsys.readouterr().err


def test_training_that_ends_in_a_failed_push_is_whole_and_published_later(hub, tmp_path):
    hub.fail_next(500, times=20, path="/commit/")
    quick = ("trainer.max_steps=2", "trainer.save_strategy='no'", "evaluation.baseline=false")
    recipe = classify(*quick, f"output_dir={tmp_path}", "name=x", "publish=hub", f"publish.repo_id={REPO}")

    def command(*words):
        full = [sys.executable, "-m", "finetune", *words]
        return subprocess.run(full, env=environment(hub, tmp_path / "home"), capture_output=True, text=True)

    training = command("train", *recipe)
    assert training.returncode == 3, training.stderr
    (path,) = (tmp_path / "x").iterdir()
    status = json.loads((path / "status.json").read_text())
    assert status["stage"] == "verified"
    assert "publishing to alice/model failed" in status["failed"]
    hub.faults.clear()
    again = command("publish", str(path))
    assert again.returncode == 0, again.stderr
    assert hub.files(REPO)["model.safetensors"] == (path / "model" / "model.safetensors").read_bytes()
    assert hub.repos[REPO].private
