"""What a plan says: the model by its shapes, the arithmetic, the environment; on a terminal, as Markdown, as JSON."""

import json

import pytest
from tiny_runs import chat, classify, config, own_caches

from finetune.cli import main
from finetune.plan import frozen
from finetune.plan.catalogue import PlanError
from finetune.plan.planned import planned, write
from finetune.plan.run_folder import RunFolder
from finetune.plan.show import markdown


@pytest.fixture(scope="module")
def made():
    with own_caches():
        return planned(config(classify("adapter=lora")), notes=["trainer.save_steps (a.yaml:3) is idle: because"])[0]


def test_adapted_modules_are_counted_by_shape(made):
    assert made.model.adapted["query"] == {"16 → 16": 2}
    assert made.model.adapted["dense"] == {"16 → 16": 3, "16 → 32": 2, "32 → 16": 2}


def test_a_head_that_the_base_does_not_bring_is_new_and_trained(made):
    assert made.model.fresh == ["classifier"]
    with own_caches():
        whole, _ = planned(config(chat("adapter=lora")))
    assert whole.model.fresh == []


def test_trained_weights_are_those_that_are_trained(made):
    from finetune.models import adapter, model
    from finetune.training.train import load_base

    loaded = load_base(made)
    adapted = adapter.apply(loaded.model, made.config.adapter, made.config.task.peft_type, loaded.fresh)
    assert made.model.trainable == sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    assert model.fresh_modules(loaded.model, ["classifier.weight"]) == ("classifier",)


def test_counting_again_loads_no_adapter_library(made, monkeypatch):
    from finetune.plan import summary

    monkeypatch.setattr(summary, "_counted", lambda *_: pytest.fail("counted again"))
    with own_caches():
        again, _ = planned(config(classify("adapter=lora")))
    assert again.model == made.model


def test_it_is_written_as_json_and_markdown(made, tmp_path):
    write(made, tmp_path / "plan")
    assert frozen.read(RunFolder(tmp_path / "plan")) == made
    text = (tmp_path / "plan/plan.md").read_text()
    assert text == markdown(made)
    assert "| ✓ remote-code | off |" in text
    assert "trainer.save_steps (a.yaml:3) is idle: because" in text
    assert "query | 2 × (16 → 16)" in text


def test_steps_without_rows_that_fill_none_are_planned_and_none_at_all_is_refused():
    drop = ("trainer.dataloader_drop_last=true", "trainer.max_steps=-1", "trainer.num_train_epochs=2")
    with own_caches():
        whole = planned(config(classify(*drop[1:], "trainer.per_device_train_batch_size=7")))[0].batches
        cut = planned(config(classify(*drop, "trainer.per_device_train_batch_size=7")))[0].batches
        assert (whole.rows, cut.rows) == (48, 42)
        assert whole.total_steps - cut.total_steps == 2
        with pytest.raises(PlanError, match="dataloader_drop_last=true leaves none of 48 rows: a step takes 64"):
            planned(config(classify(*drop, "trainer.per_device_train_batch_size=64")))


def test_no_credential_stands_in_a_plan(made, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary0123456789")
    monkeypatch.setenv("WANDB_API_KEY", "canary" * 6)
    with own_caches():
        again, _ = planned(config(classify("adapter=lora")))
    assert again.environment["credentials"] == {"Hub token": "present", "W&B key": "present"}
    assert "canary" not in markdown(again) + json.dumps(frozen.sealed(again))


class TestVerb:
    def plan(self, capsys, *more):
        with own_caches(), pytest.raises(SystemExit) as ended:
            main(["plan", *more])
        return ended.value.code, *capsys.readouterr()

    def test_a_plan_that_passes_exits_with_nothing(self, capsys, tmp_path):
        code, printed, _ = self.plan(capsys, *classify("adapter=lora", f"output_dir={tmp_path}", "name=x"))
        assert code == 0
        assert (tmp_path / "x/plan/plan.json").is_file()
        assert "2 × (16 → 16)" in printed

    def test_one_that_fails_is_shown_whole_written_and_exits_as_the_users(self, capsys, tmp_path):
        best = ("trainer.load_best_model_at_end=true", "trainer.eval_strategy=epoch", "trainer.save_strategy=epoch")
        wanted = classify(*best, "trainer.metric_for_best_model=f7")
        code, printed, said = self.plan(capsys, *wanted, "--output", str(tmp_path))
        assert code == 2
        assert "✗ best-model" in printed
        assert "✓ remote-code" in printed
        assert "f7 is not measured" in said
        assert "✗ best-model" in (tmp_path / "plan.md").read_text()

    def test_a_key_that_a_later_choice_made_idle_is_named(self, capsys, tmp_path):
        (tmp_path / "mine.yaml").write_text("trainer: {num_train_epochs: 3}")
        words = classify(f"output_dir={tmp_path}", "trainer.max_steps=2")
        _, printed, _ = self.plan(capsys, f"recipe={tmp_path}/mine.yaml", *words)
        assert "trainer.num_train_epochs" in printed
        assert "is idle" in printed
