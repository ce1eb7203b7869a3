"""The straight line, end to end, on tiny models: what a run leaves behind, and what stops it."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import (
    KINDS,
    LABELS,
    bert,
    chat,
    classify,
    config,
    copy_of,
    data,
    finetune,
    llama,
    own_caches,
    root,
    trained,
    worked,
)
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from finetune import worker
from finetune.artifacts import card, evaluate, verify
from finetune.errors import UserError
from finetune.plan import frozen
from finetune.plan.planned import planned

QUICK = ("trainer.max_steps=4", "trainer.save_strategy='no'", "evaluation.baseline=false")
CLASSIFY_LORA = ("adapter=lora", "adapter.lora_dropout=0")


def weights(folder) -> dict[str, torch.Tensor]:
    (file,) = folder.model.glob("*.safetensors")
    return load_file(file)


def losses(folder) -> list[float]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_and_says_how_much(kind):
    folder = trained(kind)
    outcome = folder.read("evaluation.json")
    assert losses(folder)[-1] < 0.75 * losses(folder)[0]
    assert outcome["scores"]["loss"] < 0.75 * outcome["baseline"]["loss"]
    assert outcome["rows"] == 12
    assert folder.read("status.json") == {"stage": "verified"}
    assert all(finding["passed"] for finding in folder.read("verification.json"))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_the_model_is_a_pickle(kind):
    files = [file for file in trained(kind).model.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".jinja"}
    assert not [file for file in files if file.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04")]


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_raw_numbers_one_object_a_line(kind):
    entries = [json.loads(line) for line in (trained(kind) / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "loss" in entry] == list(range(2, 21, 2))
    assert all(isinstance(value, int | float) for entry in entries for value in entry.values())
    logged = [entry["learning_rate"] for entry in entries if "learning_rate" in entry]
    assert logged[-1] < 1e-4 < logged[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_lines_of_the_card_load_the_trained_model(kind, tmp_path):
    folder, base = trained(kind), llama() if kind.startswith("chat") else bert()
    plan = frozen.read(folder)
    card.write(plan, folder, "me/model", tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "finetune" not in lines
    names: dict = {}
    shown = plan.config.model.base_id or base.name
    exec(lines.replace("me/model", str(folder.model)).replace(f'"{shown}"', f'"{base}"'), names)

    probe = load_file(folder / "probe.safetensors")
    expected = probe.pop("logits")
    with torch.no_grad():
        logits = names["model"].eval()(**{key: value for key, value in probe.items() if key != "labels"}).logits
    found = logits[:, -8:] if logits.ndim > 2 else logits
    # Without our switch, bitsandbytes multiplies quantized weights in bf16 on a processor that can.
    tolerance = verify.TOLERANCE["bf16" if kind == "chat_qlora" else "fp32"]
    torch.testing.assert_close(found, expected, atol=tolerance * float(expected.abs().max()), rtol=0)
    assert names["tokenizer"]("the cat")["input_ids"]
    if kind.startswith("classify"):
        assert names["model"].config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_a_run_again_gives_the_same_scores(kind):
    folder = trained(kind)
    with own_caches():
        again = evaluate.evaluate(folder, "validation")
    before = folder.read("evaluation.json")["scores"]
    assert again == pytest.approx({name: before[name] for name in again}, rel=1e-5)


def test_scores_are_printed_and_a_split_that_is_not_there_is_refused(capsys):
    folder = trained("classify_lora")
    assert finetune("evaluate", str(folder.path)) == 0
    assert f"{folder.read('evaluation.json')['scores']['accuracy']:.4f}" in capsys.readouterr().out
    assert finetune("evaluate", str(folder.path), "--split", "test") == 2
    assert "train, validation" in capsys.readouterr().err


def test_answers_are_kept_as_text():
    folder = trained("chat_lora")
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 12
    exact = sum(answer["given"] == answer["answer"] for answer in answers) / 12
    assert folder.read("evaluation.json")["scores"]["generation_exact_match"] == exact > 0


def predicted(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_predictions_from_arguments_files_and_the_terminal_agree(capsys, monkeypatch, tmp_path):
    run_path, texts = str(trained("classify_lora").path), ["the cat dog", "the oak", "the gem jet"]
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n\n")
    (tmp_path / "in.csv").write_text("text\n" + "\n".join(texts) + "\n")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))

    assert finetune("predict", run_path, *texts) == 0
    expected = predicted(capsys)
    assert [answer["label"] for answer in expected] == list(LABELS)
    for name in ("in.txt", "in.csv", "in.jsonl", "pairs.jsonl"):
        assert finetune("predict", run_path, "--input", str(tmp_path / name)) == 0
        assert [answer["label"] for answer in predicted(capsys)] == list(LABELS), name
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts) + "\n"))
    assert finetune("predict", run_path, "--output", str(tmp_path / "out.jsonl")) == 0
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == expected


def test_a_chat_model_answers_a_prompt(capsys):
    folder = trained("chat_lora")
    kept = json.loads((folder / "answers.jsonl").read_text().splitlines()[0])
    assert finetune("predict", str(folder.path), "a cat", "--max-new-tokens", "12") == 0
    (answer,) = predicted(capsys)
    assert kept["prompt"][0]["content"] == "a cat"
    assert answer == {"input": "a cat", "answer": kept["given"], "capped": kept["capped"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("in.jsonl", b'{"text": 1\n', "in.jsonl:1 is not JSON"), ("in.txt", b"\xff\xfe", "is not UTF-8")],
)
def test_an_input_that_cannot_be_read_is_named(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert finetune("predict", str(trained("classify_lora").path), "--input", str(tmp_path / name)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("recipe", [classify, chat])
def test_evaluation_while_training_is_the_evaluation_afterwards(recipe, tmp_path):
    folder = worked(recipe("trainer.eval_strategy=steps", "trainer.eval_steps=10"), tmp_path)
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scored = [entry for entry in entries if "eval_loss" in entry]
    assert [entry["step"] for entry in scored] == [10, 20]
    last = {name.removeprefix("eval_"): value for name, value in scored[-1].items() if name.startswith("eval_")}
    assert last == pytest.approx(folder.read("evaluation.json")["scores"])


def with_other_labels(folder: Path) -> Path:
    """The texts, with the validation rows labelled wrong, each kind alike."""
    shutil.copytree(data(), folder)
    file, kinds = folder / "texts_validation.csv", list(LABELS)
    first, *rows = file.read_text().splitlines()
    cells = [row.split(",") for row in rows]
    wrong = [f"{text},{kinds[kinds.index(label) - 1]}" for text, label in cells]
    file.write_text("\n".join([first, *wrong]) + "\n")
    return folder


@pytest.mark.parametrize("more", [(), CLASSIFY_LORA])
def test_the_best_checkpoint_is_the_one_that_is_kept(more, tmp_path):
    every = (
        "trainer.eval_strategy=steps",
        "trainer.save_strategy=steps",
        "trainer.eval_steps=5",
        "trainer.save_steps=5",
    )
    # The longer it learns, the worse it does where each label has another one's name.
    contrary = (f"dataset.path={with_other_labels(tmp_path / 'data')}", "trainer.load_best_model_at_end=true")
    folder = worked(classify(*more, *every, *contrary), tmp_path / "runs")
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scored = [entry["eval_loss"] for entry in entries if "eval_loss" in entry]
    assert min(scored) < scored[-1]
    assert folder.read("evaluation.json")["scores"]["loss"] == pytest.approx(min(scored))
    assert all(finding.passed for finding in verify.compare(folder))


def renamed(tensors):
    return {name.replace("lora_B", "lora_C"): value for name, value in tensors.items()}


def zeroed(tensors):
    return {name: torch.zeros_like(value) for name, value in tensors.items()}


def one_head_tensor(tensors):
    (name,) = [name for name in tensors if "classifier" in name and name.endswith("bias")]
    return {**tensors, name: tensors[name] + 0.05}


def one_layer_missing(tensors):
    return {name: value for name, value in tensors.items() if "layer.1.attention.self.query" not in name}


@pytest.mark.parametrize("tamper", [renamed, zeroed, one_head_tensor, one_layer_missing])
def test_an_adapter_that_is_not_the_trained_one_fails_and_says_where(tamper, tmp_path):
    folder = copy_of(trained("classify_lora"), tmp_path)
    file = folder.model / "adapter_model.safetensors"
    save_file(tamper(load_file(file)), file)
    failed = [finding.name for finding in verify.compare(folder) if not finding.passed]
    assert "logits" in failed


def test_another_template_or_label_fails(tmp_path):
    folder = copy_of(trained("chat_lora"), tmp_path)
    (folder.model / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert [finding.name for finding in verify.compare(folder) if not finding.passed] == ["tokenizer", "template"]

    folder = copy_of(trained("classify_full"), tmp_path)
    file = folder.model / "config.json"
    file.write_text(file.read_text().replace('"plant"', '"plants"'))
    assert [finding.name for finding in verify.compare(folder) if not finding.passed] == ["labels"]


def test_a_run_whose_model_was_damaged_on_disk_ends_with_an_error(monkeypatch, capsys):
    save = worker.save

    def damaged(model, tokenizer, folder):
        save(model, tokenizer, folder)
        file = folder / "model.safetensors"
        save_file(zeroed(load_file(file)), file, {"format": "pt"})

    monkeypatch.setattr(worker, "save", damaged)
    assert finetune("train", *classify(*QUICK, "name=damaged")) == 1
    message = capsys.readouterr().err
    assert "the saved model is not the trained one. logits: largest difference" in message
    (path,) = (root() / "runs" / "damaged").iterdir()
    status = json.loads((path / "status.json").read_text())
    assert status["stage"] == "saved"
    assert "logits" in status["failed"]
    assert finetune("publish", str(path), "--repo-id", "me/x") == 2
    assert "was not verified" in capsys.readouterr().err


def test_a_verification_of_before_does_not_count(tmp_path):
    folder = copy_of(trained("classify_full"), tmp_path)
    (folder.model / "config.json").write_text("{}")
    with pytest.raises(verify.VerificationError, match="could not be loaded"):
        verify.run(folder)


def not_saved(name: str) -> dict:
    (path,) = (root() / "runs" / name).iterdir()
    assert not (path / "model").exists()
    assert not (path / "evaluation.json").exists()
    return json.loads((path / "status.json").read_text())


def test_a_loss_that_is_no_number_stops_the_run(capsys):
    absurd = ("trainer.learning_rate=1e30", "trainer.lr_scheduler_type=constant")
    assert finetune("train", *chat(*absurd, "name=absurd")) == 2
    assert "is nan at step 2" in capsys.readouterr().err
    status = not_saved("absurd")
    assert status["stage"] == "training"
    assert "is nan at step 2" in status["failed"]


def test_weights_that_are_no_numbers_stop_the_run_before_it_trains(tmp_path, capsys):
    folder = Path(shutil.copytree(bert(), tmp_path / "bert"))
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.output.dense.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert finetune("train", *classify(f"model.path={folder}", "name=broken")) == 2
    assert "no finite numbers" in capsys.readouterr().err
    assert not_saved("broken")["stage"] == "training"


@pytest.mark.parametrize("recipe", [classify, chat])
def test_the_same_recipe_gives_the_same_adapter_to_the_bit(recipe, tmp_path):
    first, second, other = (
        weights(worked(recipe("adapter=lora", *QUICK, *seed), tmp_path)) for seed in ((), (), ("seed=7",))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


KINDS_OF_LABELS = {
    "one": ("animal", "plant", "stone"),
    "several": (["animal"], ["animal", "plant"], ["stone"]),
    "number": (0.5, 1.5, -0.5),
}


@pytest.fixture(params=KINDS_OF_LABELS)
def labelled(request, tmp_path) -> list[str]:
    """A recipe for each kind of label; 26 rows, so that the last step is a part of a batch."""
    labels = KINDS_OF_LABELS[request.param]
    words = list(LABELS.values())
    for split, rows in (("train", 26), ("validation", 6)):
        lines = [json.dumps({"text": f"the {words[at % 3]}"[: 7 + at], "label": labels[at % 3]}) for at in range(rows)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return [f"dataset.path={tmp_path}", "dataset.data_files={train: train.jsonl, validation: validation.jsonl}"]


# SGD keeps the size of a gradient visible, and nothing is clipped: Adam would hide a gradient twice too large.
PLAIN_STEPS = ("trainer.optim=sgd", "trainer.learning_rate=0.1", "trainer.max_grad_norm=0", "trainer.max_steps=8")
CUTS = [("trainer.per_device_train_batch_size=8",), ("trainer.per_device_train_batch_size=2", "global_batch_size=8")]


def same_however_cut(recipe, tmp_path, *more):
    quick = (*PLAIN_STEPS, "trainer.save_strategy='no'", "evaluation.baseline=false", *more)
    whole, parts = (worked(recipe(*quick, *cut), tmp_path / str(at)) for at, cut in enumerate(CUTS))
    assert frozen.read(parts).batches.accumulation == 4
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, atol=1e-5, rtol=1e-5)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)


def test_classification_is_the_same_however_a_batch_is_cut(labelled, tmp_path):
    same_however_cut(classify, tmp_path, *labelled)


def test_smoothed_labels_are_the_same_however_a_batch_is_cut(tmp_path):
    same_however_cut(classify, tmp_path, "trainer.label_smoothing_factor=0.1")


def test_chat_is_the_same_however_a_batch_is_cut(tmp_path):
    same_however_cut(chat, tmp_path)


def test_evaluation_does_not_depend_on_its_batch_size(tmp_path):
    scores = [
        worked(chat(*QUICK, f"evaluation.batch_size={size}"), tmp_path).read("evaluation.json")["scores"]
        for size in (1, 5)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_a_quantized_base_is_differentiated_after_it_was_evaluated(tmp_path):
    """bitsandbytes repacks weights at the first evaluation, into a layout that passes no gradient on."""
    made = [
        worked(chat("adapter=qlora", "adapter.lora_dropout=0", *QUICK, f"evaluation.baseline={baseline}"), tmp_path)
        for baseline in ("true", "false")
    ]
    first, second = map(weights, made)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_scores_of_a_row_without_padding_are_the_models_own():
    folder = trained("classify_full")
    plan = frozen.read(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder.model)
    texts = [line.rpartition(",")[0] for line in (data() / "texts_validation.csv").read_text().splitlines()[1:]]
    right = 0
    for at, text in enumerate(texts):
        with torch.no_grad():
            right += int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) == at % 3
    assert folder.read("evaluation.json")["scores"]["accuracy"] == right / 12
    assert plan.report["validation"]["kept"] == 12


def test_a_run_that_asks_for_other_metrics_than_the_task_s_own_is_scored_by_its_loss(tmp_path):
    found = worked(classify("evaluation.metrics=[f1]", "trainer.max_steps=2"), tmp_path)
    outcome = found.read("evaluation.json")
    assert outcome["score"] == ["loss", False]
    assert set(outcome["scores"]) == {"loss", "f1"}


def test_a_bf16_base_with_a_fresh_head_trains_and_reloads_where_products_are_fp32(tmp_path):
    AutoModel.from_pretrained(bert()).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(bert()).save_pretrained(tmp_path / "base")
    found = worked(
        classify(*CLASSIFY_LORA, f"model.path={tmp_path / 'base'}", "trainer.max_steps=2"), tmp_path / "runs"
    )
    assert all(finding.passed for finding in verify.compare(found))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("quantization=bnb_4bit",), "a quantized base is frozen"),
        (("trainer.resume_from_checkpoint=nowhere",), "there is no checkpoint"),
    ],
)
def test_what_could_only_fail_later_is_refused_before_data_is_touched(overrides, said):
    with pytest.raises(UserError, match=said):
        planned(config(chat(*overrides)))


def test_the_best_model_by_perplexity_is_the_one_with_the_lowest(tmp_path):
    """Upstream takes the highest of every metric that is not called a loss."""
    each = (
        "trainer.eval_strategy=steps",
        "trainer.save_strategy=steps",
        "trainer.eval_steps=2",
        "trainer.save_steps=2",
    )
    best = ("trainer.load_best_model_at_end=true", "trainer.metric_for_best_model=perplexity", "trainer.max_steps=6")
    found = worked(chat(*each, *best, "trainer.learning_rate=1e-2"), tmp_path)
    entries = [json.loads(line) for line in (found / "metrics.jsonl").read_text().splitlines()]
    measured = [entry["eval_perplexity"] for entry in entries if "eval_perplexity" in entry][:3]
    assert measured[0] > measured[-1]
    assert found.read("evaluation.json")["scores"]["perplexity"] == pytest.approx(min(measured), rel=1e-4)
