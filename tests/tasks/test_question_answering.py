"""Extractive question answering, by the command line's own path, on rows that a tiny model can learn."""

import json
import shutil
from functools import cache, partial

import numpy as np
import pytest
import torch
from crash import SMALL, Kill, differences, once, outcome, trained
from tiny_runs import LABELS, LORA, bert, common, config, llama, own_caches, root, worked
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from finetune.artifacts import verify
from finetune.artifacts.evaluate import evaluate
from finetune.artifacts.predict import answering
from finetune.data.answers import FOUND, NONE, NOT_THERE
from finetune.data.prepare import prepare
from finetune.data.preview import Choice, shown
from finetune.errors import FinetuneError, UserError
from finetune.evaluation.evaluate import Evaluation
from finetune.tasks.question_answering import QuestionAnswering

ANIMALS, OTHERS = LABELS["animal"].split(), [*LABELS["plant"].split(), *LABELS["stone"].split()]
LONG = 40


def row(at, words=6, has_answer=True):
    """Which animal is among plants and stones."""
    others = [OTHERS[(at * 3 + n) % 8] for n in range(words)]
    animal, place = ANIMALS[at % 4], at % (words + 1)
    if not has_answer:
        return {"question": "the", "context": " ".join(others), "answers": {"text": [], "answer_start": []}}
    before = "".join(f"{word} " for word in others[:place])
    context = " ".join([*others[:place], animal, *others[place:]])
    return {"question": "the", "context": context, "answers": {"text": [animal], "answer_start": [len(before)]}}


def asked(count):
    """Contexts of different lengths, some of several windows; every fourth question has no answer."""
    return [row(at, LONG if at % 6 == 1 else 3 + at % 5, has_answer=at % 4 != 0) for at in range(count)]


def written(name, rows):
    folder = root() / "answers"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder / f"{name}.jsonl"


def recipe(*more):
    """A recipe on the command line."""
    files = f"{{train: {written('train', asked(48))}, validation: {written('validation', asked(16))}}}"
    mine = [part for part in common(files) if not part.startswith("dataset.path")]
    return ["task=question_answering", f"model.path={bert()}", f"dataset.path={root() / 'answers'}", *mine, *more]


METHODS = {"full": (), "lora": LORA, "qlora": ("adapter=qlora", "adapter.lora_dropout=0")}


@cache
def run_of(method):
    return worked(recipe(*METHODS[method], "trainer.max_steps=60", f"name=answers_{method}"), root() / "runs")


def asking(method, *rows):
    with own_caches():
        return list(answering(run_of(method), {})(rows))


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_model_answers_better_than_the_untouched_one_and_is_verified(method):
    folder = run_of(method)
    found = folder.read("evaluation.json")
    assert found["score"] == ["squad_f1", True]
    assert found["answered"] == 16
    for name in ("squad_f1", "squad_exact_match", "position_accuracy"):
        assert found["scores"][name] > found["baseline"][name]
    with own_caches():
        assert all(finding.passed for finding in verify.compare(folder))


def test_a_finished_run_is_scored_again_with_the_same_scores():
    folder = run_of("full")
    with own_caches():
        assert evaluate(folder, "validation") == pytest.approx(folder.read("evaluation.json")["scores"])


def test_an_answer_is_its_stretch_of_the_context_wherever_it_is():
    for at in (1, 5, 7, 13):
        asked_row = row(at, LONG if at == 13 else 6)
        (found,) = asking("full", asked_row)
        assert found["answer"] == asked_row["answers"]["text"][0]
        assert asked_row["context"][found["start"] : found["end"]] == found["answer"]
        assert found["start"] == asked_row["answers"]["answer_start"][0]
        assert 0 < found["confidence"] <= 1
        assert found["null_score_diff"] < 0


def test_a_question_without_an_answer_is_answered_with_nothing():
    (found,) = asking("full", row(8, 6, has_answer=False))
    assert (found["answer"], found["start"], found["end"]) == ("", None, None)
    assert found["null_score_diff"] > 0


def test_a_question_too_long_for_a_context_is_answered_all_the_same():
    (found,) = asking("full", {**row(5), "question": "the " * 100})
    assert set(found) == {"input", "answer", "start", "end", "confidence", "null_score_diff"}


def test_many_are_answered_like_each_alone():
    rows = asked(20)
    together = asking("full", *rows)
    assert [found["answer"] for found in together] == [asking("full", each)[0]["answer"] for each in rows]


@pytest.mark.parametrize(
    "wrong", ["the", {"question": "the"}, {"question": "", "context": "cat"}, {"context": 3}, None]
)
def test_an_input_that_asks_nothing_is_refused_by_number(wrong):
    with pytest.raises(UserError, match=r"input 1: .* a row has question and context"):
        asking("full", row(1), wrong)


def test_a_run_that_is_killed_and_resumed_was_never_killed(tmp_path):
    small, (whole, parts) = [*recipe(*SMALL), "evaluation.generation.rows=0"], (tmp_path / "whole", tmp_path / "parts")
    assert once(partial(trained, small, whole), whole).code == 0
    assert once(partial(trained, small, parts, [Kill(8)]), parts).code == -9
    assert once(partial(trained, small, parts), parts).code == 0
    assert not differences(outcome(whole), outcome(parts))


# Rows


def read(rows, *more):
    """The prepared rows of a file."""
    file = written("prepared", rows)
    with own_caches():
        return prepare(config([f"dataset.path={file}", f"model.path={bert()}", "task=question_answering",
                               "dataset.validation_size=1", "dataset.max_dropped=0.9", *more]))  # fmt: skip


def test_read_is_kept_and_dropped_in_rows_whatever_their_windows():
    wrong = {**row(2), "answers": {"text": ["hippo"], "answer_start": [0]}}
    mended = {**row(3), "answers": {"text": [row(3)["answers"]["text"][0]], "answer_start": [1]}}
    prepared = read([*asked(12), wrong, mended, row(9, LONG)])
    accounts = prepared.report.values()
    dropped = sum(each["rows"] for account in accounts for each in account["dropped"].values())
    assert sum(account["read"] for account in accounts) == 15 == sum(account["kept"] for account in accounts) + dropped
    assert {reason for account in accounts for reason in account["dropped"]} == {NOT_THERE}
    notes = {name for account in accounts for name in account["notes"]}
    assert {FOUND, NONE, "windows", "windows without the answer"} <= notes
    train = prepared.report["train"]
    assert train["rows"] == len(prepared.rows("train")) == train["notes"]["windows"] > train["kept"]


def test_another_length_makes_other_windows():
    rows = asked(12)
    long, short = (read(rows, f"tokenizer.max_length={length}").rows("train").lengths for length in (32, 16))
    assert (long.max(), short.max()) == (32, 16)
    assert len(short) > len(long)


def test_a_copy_is_one_dropped_row_whatever_its_windows():
    rows = [row(1, LONG), row(3, LONG), row(1, LONG), row(5), row(7)]
    train = read(rows, "dataset.deduplicate=exact", "seed=1").report["train"]
    copies = {reason: each["rows"] for reason, each in train["dropped"].items()}
    assert train["read"] == train["kept"] + sum(copies.values())
    assert set(copies.values()) <= {1}


def test_rows_are_shown_with_the_tokens_of_the_answer():
    prepared = read(asked(12))
    with own_caches():
        marked = ["".join(unit.text for unit in each.units if unit.is_trained).strip()
                  for each in shown(prepared, Choice(count=40))]  # fmt: skip
    assert set(marked) <= {*ANIMALS, "[CLS]"}
    assert len(set(marked)) > 2


BAD = {
    "no column": ([{"question": "the", "answers": {"text": [], "answer_start": []}}] * 3, "no column for the context"),
    "no answers": ([row(at, has_answer=False) for at in range(4)], "no question of train has an answer in column"),
    "a number": (
        [*asked(6), {**row(1), "answers": {"text": [7], "answer_start": [0]}}],
        r"row \d: the answer 7 is not",
    ),
    "places": (
        [*asked(6), {**row(1), "answers": {"text": ["cat"], "answer_start": [0, 4]}}],
        r"row \d: there are 1 answers, and 2 places where they begin",
    ),
    "a place": ([{**row(1), "answers": "cat", "answer_start": "four"}] * 3, r"row \d: answer_start 'four' is not"),
    "all misplaced": ([{**row(1), "answers": "hippo", "answer_start": 3}] * 3, f"no row of 2 is left: .*{NOT_THERE}"),
}


@pytest.mark.parametrize("kind", BAD)
def test_rows_that_cannot_be_learned_are_refused_and_located(kind):
    rows, reason = BAD[kind]
    with pytest.raises(FinetuneError, match=reason) as refused:
        read(rows)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("task.stride=40", "task.stride=40 leaves no room for a question and its context in tokenizer.max_length=32"),
        ("packing=best_fit", "packing=best_fit: rows of this task have labels of their own"),
        ("dataset.columns.answers=answer", "the columns are question, context, answers"),
    ],
)
def test_what_does_not_fit_the_rows_is_refused(more, reason):
    with pytest.raises(UserError, match=reason):
        read(asked(8), more)


def test_a_tokenizer_that_does_not_know_characters_is_refused():
    words = AutoTokenizer.from_pretrained(bert())
    type(words).is_fast, before = False, type(words).is_fast
    try:
        with pytest.raises(UserError, match="needs a fast tokenizer"):
            QuestionAnswering().settle({}, words, None)
    finally:
        type(words).is_fast = before


# Batches and models


def test_padding_is_at_the_end_whichever_side_is_the_tokenizers_own():
    words, rows = AutoTokenizer.from_pretrained(bert()), read(asked(12)).rows("train")
    batches = []
    for side in ("right", "left"):
        words.padding_side = side
        batches.append(QuestionAnswering().collator(words)(rows.__getitems__(range(6))))
    for name, values in batches[0].items():
        assert torch.equal(values, batches[1][name])
    marked = [np.flatnonzero(np.asarray(each["labels"]) != -100) for each in rows.select(range(6))]
    assert batches[0]["labels"].tolist() == [[each[0], each[-1]] for each in marked]


def test_the_loss_over_windows_is_that_of_each_window_whatever_the_batch():
    words, rows, task = AutoTokenizer.from_pretrained(bert()), read(asked(20)).rows("train"), QuestionAnswering()
    model = AutoModelForQuestionAnswering.from_pretrained(bert()).eval()
    scores = [Evaluation(task, {}, task.collator(words), "fp32", size, ())(model, rows)["loss"] for size in (1, 5, 64)]
    with torch.no_grad():
        alone = [model(**inputs_of(task.collator(words)([each]))).loss.item() for each in rows]
    assert scores == pytest.approx([sum(alone) / len(alone)] * 3)


def inputs_of(batch):
    """A batch with labels under the names of the model, which computes the same loss where nothing is padded."""
    start, end = batch.pop("labels").T
    return {**batch, "start_positions": start, "end_positions": end}


def test_words_without_token_types_are_read(tmp_path):
    folder = shutil.copytree(bert(), tmp_path / "base")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    prepared = read(asked(12), f"model.path={folder}")
    assert set(prepared.rows("train")[0]) == {"input_ids", "labels"}


def test_an_adapter_tells_question_and_context_apart():
    """PEFT's own class for this head leaves token_type_ids out."""
    from finetune.artifacts.save import load
    from finetune.plan import frozen

    folder = run_of("lora")
    model = load(frozen.read(folder), folder.model).eval()
    words = AutoTokenizer.from_pretrained(bert())
    inputs = words("the", "oak cat elm", return_tensors="pt")
    with torch.no_grad():
        apart = model(**inputs).start_logits
        alike = model(**{**inputs, "token_type_ids": torch.zeros_like(inputs["token_type_ids"])}).start_logits
    assert not torch.allclose(apart, alike)


def test_learned_prompts_are_refused():
    with pytest.raises(UserError, match="puts no learned prompt before rows of this task"):
        worked(recipe("adapter=prompt", "name=prompted"), root() / "runs")


def test_a_base_that_would_begin_at_random_is_refused():
    """`LlamaForQuestionAnswering` looks for it under another name than checkpoints have."""
    with pytest.raises(UserError, match="LlamaForQuestionAnswering finds none of its weights there"):
        worked(recipe(f"model.path={llama()}", "name=random_base"), root() / "runs")
