"""The catalogue of checks: what is refused before the first step, and what is found."""

import importlib.util

import pytest
from tiny_runs import chat, classify, config, own_caches

from finetune import run
from finetune.errors import MachineError, MissingExtra, UserError
from finetune.plan import checks


def early(*more: str, recipe=classify) -> dict[str, str]:
    return {check.name: check.detail for check in checks.early(config(recipe(*more)))}


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))


@pytest.fixture
def without(monkeypatch):
    """Packages that are not installed, as far as a look-up tells."""
    found = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in names else found(name, *a))

    return hide


def test_a_plain_run_passes_and_says_what_was_found():
    found = early()
    assert found["publishing"] == "nothing leaves this machine"
    assert found["tracking"] == "metrics.jsonl"
    assert found["remote code"] == "off"


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output_dir="):
        early(f"output_dir={tmp_path / 'file'}/runs")


@pytest.mark.parametrize("package", ["wandb", "trackio", "tensorboard"])
def test_a_missing_tracker_names_the_extra(package, without):
    without(package)
    with pytest.raises(MissingExtra, match=r"finetune-recipes\[track\]") as refusal:
        early(f"tracking={package}")
    assert refusal.value.exit_code == 3


def test_a_missing_quantizer_names_the_extra(without):
    without("bitsandbytes")
    with pytest.raises(MissingExtra, match=r"finetune-recipes\[quant\]"):
        early("adapter=qlora")


@pytest.mark.usefixtures("no_token")
def test_publishing_needs_a_token():
    with pytest.raises(MachineError, match="HF_TOKEN"):
        early("publish=hub", "publish.repo_id=me/x")


def test_publishing_needs_a_repository():
    with pytest.raises(UserError, match=r"publish\.repo_id=me/my-model"):
        early("publish=hub")


@pytest.mark.parametrize("repo_id", ["me/a b", "a/b/c", "me/x--y..", "'-x'"])
def test_a_repository_that_cannot_exist_is_refused(repo_id, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    with pytest.raises(UserError, match=r"publish\.repo_id="):
        early("publish=hub", f"publish.repo_id='{repo_id}'".replace("''", "'"))


def test_an_adapter_nobody_could_load_is_refused_before_it_is_trained(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    wanted = ("publish=hub", "publish.repo_id=me/x", "adapter=lora")
    with pytest.raises(UserError, match=r"model\.base_id"):
        early(*wanted)
    assert early(*wanted, "model.base_id=me/base")["publishing"] == "me/x, private"
    assert early(*wanted[:2], "publish.private=false")["publishing"] == "me/x, public"


@pytest.mark.parametrize(("pattern", "message"), [("'(a'", "not a regular expression"), ("a+", "has no group")])
def test_an_answer_pattern_that_finds_nothing_is_refused(pattern, message):
    with pytest.raises(UserError, match=message):
        early("evaluation.generation.rows=1", f"evaluation.generation.answer_pattern={pattern}", recipe=chat)


def test_an_unknown_metric_is_refused():
    with pytest.raises((UserError, MachineError), match="f7"):
        early("evaluation.metrics=[f7]")


def test_the_plan_counts_rows_and_trained_tokens():
    with own_caches():
        made, prepared = run.planned(config(chat()))
    found = {check.name: check.detail for check in made.checks}
    assert found["rows of train"] == "48 read, 48 kept"
    trained = sum(label != -100 for row in prepared.rows("train")["labels"] for label in row)
    total = sum(map(len, prepared.rows("train")["input_ids"]))
    assert found["trained tokens"] == f"{trained} of {total} ({trained / total:.0%})"
