"""Metrics of texts against the packages' own numbers, and the answers that a run scores with them."""

import importlib.util
import json
import math
from dataclasses import replace

import pytest
from tiny_runs import chat, classify, config, finetune, own_caches, root, worked

from finetune.artifacts import evaluate
from finetune.config.launch import LaunchConfig
from finetune.config.task import RowError, Task
from finetune.errors import UserError
from finetune.evaluation import generation, metrics
from finetune.evaluation.generation import Answering
from finetune.plan import frozen
from finetune.plan.catalogue import PlanError, refuse_failed
from finetune.plan.checks import early
from finetune.plan.planned import planned

OF_TEXTS = ("exact_match", "sacrebleu", "chrf", "rouge1", "rouge2", "rougeL")
GIVEN = ["the cat sat on the mat", "dogs were running", ""]
RIGHT = ["the cat sat on a mat", "a dog runs", "it rains"]


def test_bleu_and_chrf_are_those_of_sacrebleu():
    import sacrebleu

    found = metrics.compute(["sacrebleu", "chrf"], GIVEN, RIGHT)
    assert found["sacrebleu"] == pytest.approx(sacrebleu.corpus_bleu(GIVEN, [RIGHT]).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(GIVEN, [RIGHT]).score)


def test_rouge_is_the_mean_of_the_rows_with_stemmed_words():
    found = metrics.compute(["rouge1", "rouge2", "rougeL"], GIVEN, RIGHT)
    assert found["rouge1"] == pytest.approx((5 / 6 + 2 / 3 + 0) / 3)
    assert found["rouge2"] == pytest.approx((3 / 5 + 0 + 0) / 3)
    assert found["rougeL"] == pytest.approx((5 / 6 + 2 / 3 + 0) / 3)


NEAR = {
    "zh": ("今天天气很好，我们去公园散步吧。", "今天天气很好，我们去公园散步。"),
    "zh with names": (
        "我们用 PyTorch 和 Transformers 训练模型，效果很好。",
        "我们用 PyTorch 和 Transformers 训练模型，效果好。",
    ),
    "char of Japanese": ("今日は天気がとても良いです。", "今日は天気がとても良いですね。"),
    "char of Korean": ("오늘은 날씨가 매우 좋습니다.", "오늘은 날씨가 정말 좋습니다."),
    "char of Thai": ("วันนี้อากาศดีมาก", "วันนี้อากาศดีมากครับ"),
    "13a of Russian": ("Кошка сидит на большом ковре.", "Кошка сидит на большом красном ковре."),
    "13a": ("the cat sat on the mat", "the cat sat on the 大 mat"),
}


@pytest.mark.parametrize("kind", NEAR)
def test_bleu_is_tokenized_by_the_script_of_the_references_and_the_log_says_how(kind, caplog):
    from sacrebleu.metrics.bleu import BLEU

    (given, right), tokenizer = NEAR[kind], kind.partition(" ")[0]
    found = metrics.compute(["sacrebleu"], [given], [[right, right]])["sacrebleu"]
    assert found == pytest.approx(BLEU(tokenize=tokenizer).corpus_score([given], [[right], [right]]).score)
    assert found > 30
    assert [f"tokenize={tokenizer}" in line for line in caplog.messages] == [True] * (tokenizer != "13a")


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
@pytest.mark.parametrize("kind", NEAR)
def test_rouge_reads_every_script(kind, name):
    given, right = NEAR[kind]
    assert metrics.compute([name], [right], [right]) == {name: 1}
    assert 0 < metrics.compute([name], [given], [right])[name] < 1


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_of_english_is_that_of_the_package(name):
    from rouge_score.rouge_scorer import RougeScorer

    given = "It’s RUNNING—the 2nd dog's “biggest” run_time: 3,000½ ❤️ 1️⃣ metres²!"
    right = "it's run; the second dogs' big run time 3 000 was ❤ 1 metre"
    expected = RougeScorer([name], use_stemmer=True).score(right, given)[name].fmeasure
    assert metrics.compute([name], [given], [right])[name] == pytest.approx(expected)


def test_rouge_keeps_the_marks_and_the_accents_of_letters():
    assert metrics.compute(["rouge1"], ["हिन्दी भाषा"], ["हिन्दी भाषा"])["rouge1"] == 1
    assert metrics.compute(["rouge1"], ["की"], ["का"])["rouge1"] == 0
    assert metrics.compute(["rouge1"], ["cafe\u0301"], ["CAFÉ"])["rouge1"] == 1


@pytest.mark.parametrize("name", OF_TEXTS)
def test_the_most_similar_of_several_right_texts_counts(name):
    given, several = ["the cat sat on the mat"] * 2, [["a dog", "the cat sat on the mat"], ["the cat sat on the mat"]]
    best = 100.0 if name in ("sacrebleu", "chrf") else 1.0
    assert metrics.compute([name], given, several)[name] == pytest.approx(best)
    assert metrics.compute([name], given, ["a dog"] * 2)[name] < best


@pytest.mark.parametrize("name", OF_TEXTS)
def test_nothing_written_scores_nothing_and_never_nan(name):
    assert metrics.compute([name], ["", ""], ["a", "b"])[name] == 0
    assert math.isfinite(metrics.compute([name], ["", ""], ["", ""])[name])


@pytest.mark.parametrize("name", OF_TEXTS)
@pytest.mark.parametrize(
    ("given", "right"), [([1], ["a"]), (["a"], [1]), (["a"], [[]]), (["a"], [["a", 2]]), ("a", "a")]
)
def test_what_is_no_text_is_refused(name, given, right):
    with pytest.raises((UserError, TypeError), match=r"strings|no text that is right|one string|iterable"):
        metrics.compute([name], given, right)


@pytest.mark.parametrize("name", OF_TEXTS)
def test_through_the_interface_of_evaluate(name):
    found = metrics.load(name).compute(predictions=GIVEN, references=RIGHT)
    assert found == metrics.compute([name], GIVEN, RIGHT)
    several = metrics.load(name).compute(predictions=["a b"], references=[["a b", "c"]])
    assert several == metrics.compute([name], ["a b"], [["a b", "c"]])


def test_a_missing_package_is_named_with_its_extra_before_anything_is_trained(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rouge_score" else find(name))
    asked = chat("evaluation=generation", "evaluation.generation.metrics=[rougeL]")
    with pytest.raises(PlanError, match=r"rouge_score is not installed.*finetune-recipes\[text\]") as refusal:
        refuse_failed(early(config(asked)))
    assert refusal.value.exit_code == 3


def test_a_metric_of_texts_is_none_of_a_head():
    with pytest.raises(PlanError, match=r"Write evaluation\.generation\.metrics=\[chrf\]"):
        refuse_failed(early(config(classify("evaluation.metrics=[chrf]"))))


def test_a_metric_of_answers_that_is_not_there_is_refused():
    with pytest.raises(PlanError, match="Did you mean chrf"):
        refuse_failed(early(config(chat("evaluation=generation", "evaluation.generation.metrics=[chrff]"))))


@pytest.fixture(scope="module")
def answered():
    more = ("evaluation.generation={rows: all, max_new_tokens: 8, metrics: [chrf, rougeL]}", "trainer.max_steps=30")
    return worked(chat(*more, "name=answered"), root() / "runs")


def test_answers_are_scored_beside_those_of_the_untouched_model(answered):
    found = answered.read("evaluation.json")
    for name in ("chrf", "rougeL"):
        assert found["scores"][name] > found["baseline"][name]
    assert {"generation_capped", "loss"} <= found["scores"].keys() & found["baseline"].keys()
    assert "generation_exact_match" not in found["scores"]


def test_every_validation_row_is_answered_and_kept_as_text(answered):
    answers = [json.loads(line) for line in (answered / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == answered.read("evaluation.json")["answered"] == 12
    scored = metrics.compute(["chrf"], [a["given"] for a in answers], [a["answer"] for a in answers])
    assert scored["chrf"] == pytest.approx(answered.read("evaluation.json")["scores"]["chrf"])


def test_a_run_is_scored_again_with_its_answers(answered):
    with own_caches():
        again = evaluate.evaluate(answered, "validation")
        of_train = evaluate.evaluate(answered, "train")
    assert again == pytest.approx(answered.read("evaluation.json")["scores"], rel=1e-4)
    assert of_train["chrf"] > 0


def test_questions_of_a_streamed_run_are_asked_where_there_are_fewer_accelerators(answered):
    """A launch that counts them has no number on this machine; the plan has."""
    plan = frozen.read(answered)
    dataset, trainer = replace(plan.config.dataset, streaming=True), {**plan.config.trainer, "max_steps": 2}
    launched = replace(plan.config, dataset=dataset, trainer=trainer, launch=LaunchConfig(method="torchrun"))
    with own_caches():
        assert evaluate._questions(replace(plan, config=launched), answered, "train")


def test_the_plan_says_what_is_answered():
    with own_caches():
        details = {
            kind: {check.name: check.detail for check in planned(config(recipe))[0].checks}["answers"]
            for kind, recipe in {
                "chrf": chat("evaluation.generation={rows: all, metrics: [chrf]}"),
                "exact": chat("evaluation=generation"),
                "none": classify(),
            }.items()
        }
    assert details == {
        "chrf": "chrf of every validation row",
        "exact": "the exact ones of 64 validation rows",
        "none": "no row is answered",
    }


def test_metrics_of_answers_are_idle_where_nothing_is_answered(capsys):
    assert finetune("plan", *chat("evaluation.generation.metrics=[chrf]")) == 2
    assert "nothing is generated where evaluation.generation.rows is 0" in capsys.readouterr().err


def test_rows_that_ask_nothing_are_refused_where_answers_are_wanted():
    class Silent(Task):
        name = "silent"

        def question(self, row, facts):
            raise RowError("asks nothing")

    assert list(generation.asked(Silent(name="silent"), [({}, {})])) == []


def test_the_part_that_a_pattern_finds_is_what_metrics_compare():
    answering = Answering(None, None, "fp32", config(chat(
        "evaluation.generation={rows: 1, answer_pattern: '#### (.+)', metrics: [exact_match]}"
    )).evaluation.generation, ("exact_match",), {})  # fmt: skip
    answers = [{"answer": ["#### 7", "#### 8"], "given": "so 3 + 5\n#### 8", "capped": False, "right": True}]
    assert answering.scores(answers) == {"exact_match": 1.0, "generation_capped": 0.0}


SQUAD = ("squad_exact_match", "squad_f1")


@pytest.mark.parametrize(
    ("given", "right", "match", "f1"),
    [
        ("The Panthers!", "panthers", 1, 1),
        ("an apple, a day", "apple day", 1, 1),
        ("theatre", "atre", 0, 0),
        ("the red red dog", "red dog dog", 0, 2 / 3),
        ("in 1998", ["1997", "1998", "year 1998 it was"], 0, 2 / 3),
        ("308", ["308", "three hundred"], 1, 1),
        ("", [""], 1, 1),
        ("", ["308"], 0, 0),
        ("308", [""], 0, 0),
        ("the", ["a"], 1, 1),
        ("Göttingen", "göttingen.", 1, 1),
    ],
)
def test_answers_are_scored_as_the_script_of_squad_scores_them(given, right, match, f1):
    found = metrics.compute(SQUAD, [given], [right])
    assert (found["squad_exact_match"], found["squad_f1"]) == (match, pytest.approx(f1))


def test_a_score_of_answers_is_the_mean_over_the_rows():
    found = metrics.compute(SQUAD, ["a cat", "dog", "it"], ["cat", ["hen", "big dog"], [""]])
    assert found == {"squad_exact_match": pytest.approx(1 / 3), "squad_f1": pytest.approx((1 + 2 / 3 + 0) / 3)}
