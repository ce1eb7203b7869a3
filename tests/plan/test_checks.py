"""The catalogue of checks: what is refused before the first step, and what is found."""

import importlib.util

import pytest
from tiny_runs import chat, classify, config, own_caches

from finetune.errors import MachineError, UserError
from finetune.plan import checks
from finetune.plan.catalogue import Check, PlanError, looked_at, refuse_failed
from finetune.plan.plan import Plan
from finetune.plan.planned import planned


def early(*more: str, recipe=classify) -> dict[str, str]:
    """What was found, by the name of the check; raises where one failed, as a run does."""
    found = checks.early(config(recipe(*more)))
    refuse_failed(found)
    return {check.name: check.detail for check in found}


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
    assert found["remote-code"] == "off"


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output_dir="):
        early(f"output_dir={tmp_path / 'file'}/runs")


@pytest.mark.parametrize("package", ["wandb", "trackio", "tensorboard"])
def test_a_missing_tracker_names_the_extra(package, without):
    without(package)
    with pytest.raises(PlanError, match=r"finetune-recipes\[track\]") as refusal:
        early(f"tracking={package}")
    assert refusal.value.exit_code == 3


def test_a_missing_quantizer_names_the_extra(without):
    without("bitsandbytes")
    with pytest.raises(PlanError, match=r"finetune-recipes\[quant\]"):
        early("adapter=qlora")


@pytest.mark.usefixtures("no_token")
def test_publishing_needs_a_token():
    with pytest.raises(PlanError, match="HF_TOKEN"):
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
    with pytest.raises(PlanError, match="f7"):
        early("evaluation.metrics=[f7]")


def test_the_plan_counts_rows_and_trained_tokens():
    with own_caches():
        made, prepared = planned(config(chat()))
    found = {check.name: check.detail for check in made.checks}
    assert found["rows-train"] == "48 read, 48 kept"
    trained = sum(label != -100 for row in prepared.rows("train")["labels"] for label in row)
    total = sum(map(len, prepared.rows("train")["input_ids"]))
    assert found["trained-tokens"] == f"{trained} of {total} ({trained / total:.0%})"


class TestCatalogue:
    def test_every_failure_is_told_at_once(self, tmp_path, without):
        (tmp_path / "file").write_text("")
        without("wandb")
        with pytest.raises(PlanError) as refusal:
            early(f"output_dir={tmp_path / 'file'}/runs", "tracking=wandb", "evaluation.metrics=[f7]")
        assert [check.name for check in refusal.value.failed] == ["output-folder", "tracking", "metrics"]
        assert str(refusal.value).startswith("3 checks of the plan failed\n  output-folder: output_dir=")
        assert refusal.value.exit_code == 2

    def test_what_only_the_machine_lacks_exits_as_such(self, without):
        without("wandb")
        with pytest.raises(PlanError) as refusal:
            early("tracking=wandb")
        assert refusal.value.exit_code == 3

    def test_a_variable_that_overrules_the_recipe_is_refused(self, monkeypatch):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
        with pytest.raises(PlanError, match="ACCELERATE_MIXED_PRECISION: set in the environment"):
            early()

    def test_a_waiver_lets_the_run_go_on_and_stays_in_the_plan(self, monkeypatch):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
        found = {check.name: check for check in checks.early(config(classify("plan.waive=[environment]")))}
        assert found["environment"].status == "waived"
        assert "ACCELERATE_MIXED_PRECISION" in found["environment"].detail
        refuse_failed(found.values())

    @pytest.mark.parametrize(
        ("name", "hint"), [("enviroment", "Did you mean environment?"), ("metrics", "environment, ")]
    )
    def test_a_waiver_of_what_cannot_be_waived_is_refused(self, name, hint):
        with pytest.raises(UserError, match=rf"plan\.waive={name}.*{hint}"):
            planned(config(classify(f"plan.waive=[{name}]")))

    def test_a_check_that_cannot_be_waived_fails_all_the_same(self):
        def look():
            raise MachineError("no")

        assert list(looked_at([("a", look)], waived=["a"])) == [Check("a", "failed", "no", 3)]

    def test_a_tracker_that_the_environment_switches_off_is_refused(self, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "disabled")
        with pytest.raises(PlanError, match="WANDB_MODE"):
            early("tracking=wandb")

    def test_a_best_model_by_a_metric_that_is_not_measured_is_refused(self):
        best = ("trainer.load_best_model_at_end=true", "trainer.eval_strategy=epoch", "trainer.save_strategy=epoch")
        with own_caches():
            made, _ = planned(config(classify(*best, "trainer.metric_for_best_model=acuracy")))
        with pytest.raises(PlanError, match=r"acuracy is not measured\. Did you mean accuracy\?"):
            refuse_failed(made.checks)


class TestMemoryOfAProcessor:
    def made(self, *more: str) -> Plan:
        with own_caches():
            return planned(config(classify(*more)))[0]

    def found(self, *more: str) -> Check:
        return next(check for check in self.made(*more).checks if check.name == "memory")

    def test_what_the_machine_has_not_is_refused_with_what_would_fit(self, monkeypatch):
        rows = ("trainer.per_device_train_batch_size=64", "global_batch_size=64")
        needed = self.made(*rows).costs.needed
        monkeypatch.setattr("finetune.estimate.devices.host", lambda: needed - 1)
        found = self.found(*rows)
        assert found.status == "failed"
        assert "this processor has 1.0 for each process (plan.device=h200 plans for an accelerator)" in found.detail
        assert "trainer.per_device_train_batch_size=32 global_batch_size=64" in found.detail
        assert "paged_adamw_8bit" not in found.detail

    def test_processes_share_it(self, monkeypatch):
        monkeypatch.setattr("finetune.estimate.devices.host", lambda: 8 * 2**30)
        assert "this processor has 8.0 for" in self.found().detail
        assert "this processor has 4.0 for" in self.found("launch=torchrun", "launch.nproc_per_node=2").detail

    def test_a_job_has_what_it_asks_for(self):
        job = ("launch=slurm", "launch.nodes=2", "launch.nproc_per_node=2")
        assert "a node of the job has 3.0 for" in self.found(*job, "launch.mem=6G").detail
        assert self.found(*job).detail.endswith("plan.device=h200 plans for an accelerator")


def test_processes_are_told():
    assert early("launch=torchrun", "launch.nproc_per_node=2")["processes"] == "2 on the processor, over gloo"


def test_more_processes_than_accelerators_are_refused(monkeypatch):
    monkeypatch.setattr("finetune.models.processes.accelerators", lambda: 1)
    with pytest.raises(PlanError, match="has 1 accelerators") as refusal:
        early("launch=torchrun", "launch.nproc_per_node=2")
    assert refusal.value.exit_code == 3
