"""Texts written from others: trained by every method, scored by what is generated, and asked."""

import json
import re
from functools import cache

import numpy as np
import pytest
import torch
from tiny_runs import LORA, SPOKEN, bart, config, data, finetune, own_caches, root, translate, worked
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBart50Tokenizer,
    MBartTokenizer,
    NllbTokenizer,
)

from finetune.artifacts import evaluate, verify
from finetune.artifacts.predict import answering
from finetune.data import columns, pairs, preview, report
from finetune.data.prepare import prepare
from finetune.errors import UserError
from finetune.models import languages
from finetune.tasks.seq2seq import Seq2Seq

METHODS = {
    "full": (),
    "lora": (*LORA, "adapter.r=16"),
    "qlora": ("adapter=qlora", "adapter.lora_dropout=0"),
    "prompt": ("adapter=prompt",),
}


@cache
def trained(method):
    return worked(translate(*METHODS[method], "trainer.max_steps=60", f"name=seq2seq_{method}"), root() / "runs")


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_model_is_better_than_the_untouched_one_and_is_verified(method):
    found = trained(method).read("evaluation.json")
    assert found["score"] == ["sacrebleu", True]
    assert found["scores"]["loss"] < found["baseline"]["loss"]
    assert found["scores"]["token_accuracy"] >= found["baseline"]["token_accuracy"]
    if method != "prompt":
        assert found["scores"]["chrf"] > found["baseline"]["chrf"] + 10
    with own_caches():
        findings = verify.compare(trained(method))
    assert all(finding.passed for finding in findings), findings
    assert {"logits", "generation", "scores"} <= {finding.name for finding in findings}


def test_texts_and_rows_are_answered_in_order_whatever_the_batch():
    inputs = ["cat dog", {"en": "cow"}, "hen oak fir", "oak"]
    answers = [list(answering(trained("full"), {"batch_size": size})(inputs)) for size in (1, 3)]
    assert answers[0] == answers[1]
    assert [answer["input"] for answer in answers[0]] == inputs
    assert answers[0][1]["answer"] == SPOKEN["cow"]
    assert not any(answer["capped"] for answer in answers[0])


def test_an_answer_that_the_limit_cuts_off_is_marked_though_the_model_forces_an_end():
    (answer,) = answering(trained("full"), {"max_new_tokens": 2})(["cat dog cow hen"])
    assert answer["capped"]


def test_the_command_line_answers_with_the_limit_of_the_task(capsys):
    assert finetune("predict", str(trained("full").path), "cow", "oak") == 0
    assert [json.loads(line)["answer"] for line in capsys.readouterr().out.splitlines()] == ["vache", "chêne"]


def test_a_run_is_scored_again_as_it_was():
    with own_caches():
        again = evaluate.evaluate(trained("full"), "validation")
    assert again == pytest.approx(trained("full").read("evaluation.json")["scores"], rel=1e-4)


@pytest.mark.parametrize("wrong", [3, "", {"other": "cat"}, ["cat"]])
def test_an_input_that_is_no_source_is_refused_by_number(wrong):
    with pytest.raises(UserError, match=r"input 1: .*; write a text, or a row with en"):
        list(answering(trained("full"), {})(["cat", wrong]))


def test_a_target_that_the_decoder_has_no_room_for_is_refused():
    with own_caches(), pytest.raises(UserError, match="max_target_length=33 is more than the model's 32 positions"):
        prepare(config(translate("task.max_target_length=33")))


# What is learned


def losses(tmp_path, *more):
    folder = worked(translate("trainer.max_steps=4", "trainer.logging_steps=1", *more), tmp_path)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if "loss" in line]


QUICK = ("evaluation.baseline=false", "evaluation.generation.rows=0", "trainer.save_strategy=no")


@pytest.mark.parametrize("smoothing", ["0", "0.1"])
def test_a_step_is_the_same_however_its_rows_are_cut(smoothing, tmp_path):
    more = (*QUICK, "global_batch_size=8", f"trainer.label_smoothing_factor={smoothing}")
    whole = losses(tmp_path / "8", *more, "trainer.per_device_train_batch_size=8")
    cut = losses(tmp_path / "2", *more, "trainer.per_device_train_batch_size=2")
    assert np.array(cut) == pytest.approx(np.array(whole), rel=1e-4)


def test_a_smoothed_loss_is_of_the_targets_and_not_of_the_sources(tmp_path):
    """BART's decoder reads the source where nobody gives it the target: then the loss falls to nothing like this."""
    from torch.nn.functional import cross_entropy
    from transformers import BartForConditionalGeneration

    found = losses(tmp_path, *QUICK, "trainer.max_steps=1", "trainer.label_smoothing_factor=0.1",
                   "trainer.per_device_train_batch_size=48")[0][0]  # fmt: skip
    words, model = AutoTokenizer.from_pretrained(bart()), BartForConditionalGeneration.from_pretrained(bart())
    rows = [json.loads(line) for line in (data() / "pairs_train.jsonl").read_text().splitlines()]
    made = pairs.Encoding(words, "", 32, "error")([(row["en"], row["fr"]) for row in rows], None)
    batch = pairs.collator(words)([{name: np.array(row[name]) for name in ("input_ids", "labels")} for row in made])
    logits = model(**batch).logits.flatten(0, 1)
    smooth = -logits.log_softmax(-1).mean(-1)[batch["labels"].flatten() != -100].mean()
    expected = 0.9 * cross_entropy(logits, batch["labels"].flatten()) + 0.1 * smooth
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_a_run_that_was_stopped_goes_on_bit_by_bit(tmp_path):
    from crash import SMALL, Kill, differences, once, outcome
    from crash import trained as run

    recipe = translate(*SMALL, "trainer.save_steps=2", "model.config={dropout: 0.1}", "evaluation.generation.rows=4")
    straight = once(lambda: run(recipe, tmp_path / "straight"), tmp_path / "straight")
    killed = once(lambda: run(recipe, tmp_path / "killed", [Kill(5)]), tmp_path / "killed")
    resumed = once(lambda: run(recipe, tmp_path / "killed"), tmp_path / "killed")
    assert (straight.code, killed.code, resumed.code) == (0, -9, 0), resumed.output
    assert not differences(outcome(tmp_path / "straight"), outcome(tmp_path / "killed"))


# Rows and columns


def files(rows):
    file = root() / f"pairs-{abs(hash(json.dumps(rows)))}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(rows, *more, languages=("en", "fr")):
    spoken = [f"task.{name}_lang={code}" for name, code in zip(("source", "target"), languages)]
    with own_caches():
        return prepare(config(["task=seq2seq", f"model.path={bart()}", f"dataset.path={files(rows)}", *spoken,
                               "dataset.validation_size=2", "dataset.max_dropped=0.9", *more]))  # fmt: skip


def test_mappings_of_languages_are_read_by_the_names_of_the_languages():
    rows = [{"id": str(at), "translation": {"en": "cat", "fr": "chat"}} for at in range(6)]
    assert read(rows).facts["columns"] == {"source": "translation.en", "target": "translation.fr"}
    named = read(rows, "dataset.columns={source: translation.fr, target: translation.en}", languages=())
    assert named.facts["columns"] == {"source": "translation.fr", "target": "translation.en"}


def test_columns_of_usual_names_are_found_and_a_summary_is_scored_by_rouge():
    found = read([{"document": "cat dog", "summary": "chat"}] * 6, languages=())
    assert found.facts["columns"] == {"source": "document", "target": "summary"}
    assert Seq2Seq().answer_metrics(found.facts) == ("rougeL", "rouge1", "rouge2")
    assert Seq2Seq().score(found.facts) == ("rougeL", True)


def test_every_source_begins_with_the_prefix_and_every_target_ends():
    row = read([{"en": "dog", "fr": "chien"}] * 6, "task.source_prefix='cat '").rows("train")[0]
    words = AutoTokenizer.from_pretrained(bart())
    assert words.decode(row["input_ids"]) == "cat dog </s>"
    assert words.decode(row["labels"]) == "chien </s>"


def test_targets_without_an_end_of_their_own_get_one():
    from tiny import chat_tokenizer

    words = chat_tokenizer()
    (row,) = pairs.Encoding(words, "", 16, "error")([("one", "two")], None)
    assert row["labels"][-1] == words.eos_token_id
    assert row["labels"].count(words.eos_token_id) == 1


LONG = {"en": "cat dog", "fr": "chat " * 10}


def test_a_cut_target_gets_no_false_end_and_is_counted():
    found = read([LONG] * 6, "task.max_target_length=4")
    assert found.report["train"]["notes"]["target truncated"] == 4
    assert AutoTokenizer.from_pretrained(bart()).decode(found.rows("train")[0]["labels"]) == "chat chat chat chat"


def test_a_long_target_or_source_is_dropped_and_counted_where_that_is_asked():
    short = {"en": "cat", "fr": "chat"}
    long_source = {"en": "cat " * 20, "fr": "chat"}
    rows = [short, LONG, long_source, *[short] * 9]
    found = read(rows, "task.overlong=drop", "task.max_target_length=4", "tokenizer.max_length=8")
    dropped = {reason: entry["rows"] for split in found.report.values() for reason, entry in split["dropped"].items()}
    assert dropped == {"target longer than 4 tokens": 1, "longer than 8 tokens": 1}


def test_a_cut_source_keeps_its_end_and_is_counted():
    found = read([{"en": "cat " * 20, "fr": "chat"}] * 6, "tokenizer.max_length=8")
    assert found.report["train"]["notes"]["truncated"] == 4
    assert found.rows("train")[0]["input_ids"][-1] == 1


def test_the_lengths_of_targets_are_audited_and_shown(tmp_path, capsys):
    prepared = read([{"en": "cat", "fr": "chat"}, {"en": "cat dog cow", "fr": "chat chien vache"}] * 4)
    targets = prepared.report["train"]["audit"]["targets"]
    assert (targets["shortest"], targets["longest"]) == (2, 4)
    with own_caches():
        assert dict(report.lines(prepared, "train"))["targets"].startswith("2 to 4 tokens, median")
        choice = preview.Choice(count=1)
        (row,) = preview.shown(prepared, choice)
        report.write(prepared, choice, [row], tmp_path / "page.html")
    assert row.label.split()[0] in SPOKEN.values()
    assert "tokens of a target" in (tmp_path / "page.html").read_text()


def test_both_sides_are_padded_and_padding_carries_no_loss():
    words = AutoTokenizer.from_pretrained(bart())
    batch = pairs.collator(words)([
        {"input_ids": np.array([4, 1]), "labels": np.array([5, 6, 1], np.int32)},
        {"input_ids": np.array([4, 5, 6, 1]), "labels": np.array([1], np.int32)},
    ])  # fmt: skip
    assert batch["attention_mask"].sum(1).tolist() == [2, 4]
    assert batch["labels"].tolist() == [[5, 6, 1], [1, -100, -100]]
    assert Seq2Seq().weight(batch) == 4


# Languages of tokenizers


@pytest.mark.parametrize(
    ("kind", "codes", "begins"),
    [
        (NllbTokenizer, ("eng_Latn", "fra_Latn"), "forced_bos_token_id"),
        (MBart50Tokenizer, ("en_XX", "fr_XX"), "forced_bos_token_id"),
        (MBartTokenizer, ("en_XX", "fr_XX"), "decoder_start_token_id"),
    ],
)
def test_a_decoder_begins_in_the_target_language(kind, codes, begins, tmp_path):
    words = kind()
    assert languages.choose(words, *codes) == {begins: words.convert_tokens_to_ids(codes[1])}
    words.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert (again.src_lang, again.tgt_lang) == codes
    assert again("")["input_ids"] == words("")["input_ids"]


@pytest.mark.parametrize(("source", "target"), [("en", "fra_Latn"), ("eng_Latn", "fr"), ("eng_Latn", "xyz_Latn")])
def test_a_language_that_the_tokenizer_does_not_know_is_refused(source, target):
    words = NllbTokenizer()
    words.add_tokens(["en", "fr"])
    before = words("")["input_ids"]
    with pytest.raises(UserError, match=r"task\.(source|target)_lang=\w+: the tokenizer knows no such language"):
        languages.choose(words, source, target)
    assert words("")["input_ids"] == before


def test_a_language_that_is_not_named_is_asked_for():
    with pytest.raises(UserError, match=r"write task\.target_lang, as eng_Latn"):
        languages.choose(NllbTokenizer(), "eng_Latn", None)


def test_a_tokenizer_of_one_language_is_told_none():
    assert languages.choose(AutoTokenizer.from_pretrained(bart()), "en", None) == {}


def test_mbart_keeps_the_language_behind_a_cut_target():
    words = MBartTokenizer()
    words.add_tokens(["chat"])
    languages.choose(words, "en_XX", "fr_XX")
    (row,) = pairs.Encoding(words, "", 3, "truncate")([("a", "chat chat chat")], None)
    assert words.convert_ids_to_tokens(row["labels"]) == ["chat", "chat", "fr_XX"]


@cache
def nllb():
    """A model of many languages, over words that were added to their tokens."""
    folder = root() / "nllb"
    words = NllbTokenizer(model_max_length=32)
    words.add_tokens(sorted({word for pair in SPOKEN.items() for word in pair}))
    words.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder")
             for name, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
    model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=len(words), d_model=32, decoder_start_token_id=2,
                                                        max_position_embeddings=32, **sizes))  # fmt: skip
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_saved_begins_in_the_target_language_by_itself(method, tmp_path):
    spoken = ("task.source_lang=eng_Latn", "task.target_lang=fra_Latn", f"model.path={nllb()}",
              "dataset.columns={source: en, target: fr}", "evaluation.generation.max_new_tokens=4")  # fmt: skip
    folder = worked(translate(*spoken, "trainer.max_steps=2", *(LORA if method == "lora" else ())), tmp_path)
    words = AutoTokenizer.from_pretrained(folder.model)
    french = words.convert_tokens_to_ids("fra_Latn")
    assert GenerationConfig.from_pretrained(folder.model).forced_bos_token_id == french
    with own_caches():
        assert all(finding.passed for finding in verify.compare(folder))


def test_a_generation_config_that_is_not_the_trained_one_fails_verification(tmp_path):
    from tiny_runs import copy_of

    folder = copy_of(trained("lora"), tmp_path)
    saved = json.loads((folder.model / "generation_config.json").read_text())
    (folder.model / "generation_config.json").write_text(json.dumps({**saved, "num_beams": 3}))
    failed = {finding.name for finding in verify.compare(folder) if not finding.passed}
    assert failed == {"generation"}


# Bad input


PAIR = {"en": "cat", "fr": "chat"}
BAD = {
    "no column of targets": ([{"en": "cat", "de": "Katze"}] * 8, (), r"no column for the target among en, de"),
    "a column that is not there": ([PAIR] * 8, ("dataset.columns.target=fra",), "Did you mean fr"),
    "one column for both": ([PAIR] * 8, ("dataset.columns.target=en",), "column en is the source and the target"),
    "numbers instead of texts": ([{"en": 1, "fr": "chat"}] * 8, (), "en is no text but int"),
    "empty targets": ([PAIR] * 4 + [{"en": "cat", "fr": " "}] * 4, (), "no text in fr"),
    "a long target": ([PAIR, LONG] * 4, ("task.overlong=error", "task.max_target_length=4"),
                      r"row 7: a target of 11 tokens, more than task\.max_target_length=4"),
    "a long source": ([{"en": "cat " * 40, "fr": "chat"}] * 8, ("task.overlong=error",), "more than tokenizer"),
    "packing": ([PAIR] * 8, ("packing=best_fit",), "packing"),
    "a model that writes nothing": ([PAIR] * 8, ("model.path=BERT",), "bert has no AutoModelForSeq2SeqLM"),
    "a metric of answers as the best": (
        [PAIR] * 8,
        ("trainer.load_best_model_at_end=true", "trainer.eval_strategy=epoch", "trainer.metric_for_best_model=chrf"),
        "Answers are scored after training",
    ),
    "a chat template": ([PAIR] * 8, ("tokenizer.chat_template=chatml",), "texts are read as they are"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_reason(case, tmp_path, capsys):
    from tiny_runs import bert

    rows, more, reason = BAD[case]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = [part for part in translate() if not part.startswith("dataset.")]
    given = [part.replace("BERT", str(bert())) for part in more]
    place = [f"dataset.path={tmp_path / 'rows.jsonl'}", "dataset.validation_size=2", f"output_dir={tmp_path / 'runs'}"]
    assert finetune("plan", *recipe, *place, *given) == 2
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    assert re.search(reason, out.err + out.out), out.err + out.out


def test_columns_inside_of_columns_are_named_behind_a_dot():
    from datasets import Dataset, Features, Translation

    rows = Dataset.from_dict({"translation": [{"en": "a", "fr": "b"}]},
                             features=Features({"translation": Translation(["en", "fr"])}))  # fmt: skip
    assert columns.names(rows) == ["translation", "translation.en", "translation.fr"]
    assert columns.text(rows[0], "translation.fr") == "b"
