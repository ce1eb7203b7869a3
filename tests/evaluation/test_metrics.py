"""Metrics against scikit-learn and scipy, at their edges, and through the interface of `evaluate`."""

from __future__ import annotations

import importlib.metadata
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import MachineError, UserError
from finetune.evaluation import metrics, scores, table

CLASSIFICATION = ["accuracy", "f1", "f1_micro", "f1_weighted", "precision", "recall"]
REGRESSION = ["pearson", "spearman", "mse", "rmse", "mae", "r2"]
OURS = sorted([*CLASSIFICATION, "matthews_correlation", *REGRESSION, "exact_match"])

SCRIPT = """
import datasets
import evaluate


class Off(evaluate.Metric):
    def _info(self):
        columns = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=datasets.Features(columns)
        )

    def _compute(self, predictions, references):
        return {"off": sum(p != r for p, r in zip(predictions, references)), "each": predictions}
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Registers a function as an entry point, as an installed package would."""
    points: list[Any] = []

    class Point(importlib.metadata.EntryPoint):
        def load(self) -> Any:
            return functions[self.value]

    functions: dict[str, Any] = {}

    def register(name: str, function: Any) -> None:
        value = f"plugin:{len(points)}"
        functions[value] = function
        points.append(Point(name, value, metrics.ENTRY_POINTS))

    monkeypatch.setattr(
        metrics, "entry_points", lambda **chosen: importlib.metadata.EntryPoints(points).select(**chosen)
    )
    return register


def score(name: str, predictions: Any, references: Any) -> float:
    return metrics.compute([name], predictions, references)[name]


def oracle(name: str) -> Callable[[Any, Any], float]:
    """The same score by scikit-learn or scipy, called with predictions first."""
    sklearn, stats = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.stats")
    swapped: dict[str, Callable[..., float]] = {
        "accuracy": sklearn.accuracy_score,
        "f1": lambda r, p: sklearn.f1_score(r, p, average="macro", zero_division=0),
        "f1_micro": lambda r, p: sklearn.f1_score(r, p, average="micro", zero_division=0),
        "f1_weighted": lambda r, p: sklearn.f1_score(r, p, average="weighted", zero_division=0),
        "precision": lambda r, p: sklearn.precision_score(r, p, average="macro", zero_division=0),
        "recall": lambda r, p: sklearn.recall_score(r, p, average="macro", zero_division=0),
        "matthews_correlation": sklearn.matthews_corrcoef,
        "pearson": lambda r, p: stats.pearsonr(r, p).statistic,
        "spearman": lambda r, p: stats.spearmanr(r, p).statistic,
        "mse": sklearn.mean_squared_error,
        "rmse": sklearn.root_mean_squared_error,
        "mae": sklearn.mean_absolute_error,
        "r2": sklearn.r2_score,
    }
    return lambda predictions, references: float(swapped[name](references, predictions))


# Against scikit-learn and scipy


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", [*CLASSIFICATION, "matthews_correlation"])
def test_a_score_of_class_ids_is_that_of_scikit_learn(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, rows = int(rng.integers(2, 12)), int(rng.integers(2, 60))
    # From different ranges, so some classes are never predicted and some never occur.
    predictions, references = rng.integers(0, classes, rows), rng.integers(-1, classes - 1, rows)
    assert score(name, predictions, references) == pytest.approx(oracle(name)(predictions, references), abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_a_score_of_label_rows_is_that_of_scikit_learn(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(2, 40)), int(rng.integers(2, 6)))
    predictions, references = (rng.random(shape) < rng.random()).astype(int), (rng.random(shape) < 0.3).astype(int)
    assert score(name, predictions, references) == pytest.approx(oracle(name)(predictions, references), abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", REGRESSION)
def test_a_score_of_numbers_is_that_of_scikit_learn_or_scipy(name: str, seed: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    references = rng.normal(size=50)
    predictions = references + rng.normal(size=50)
    if tied:
        predictions, references = predictions.round(), references.round()
    assert score(name, predictions, references) == pytest.approx(oracle(name)(predictions, references), abs=1e-9)


@pytest.mark.parametrize("scale", [1e-170, 1e150])
@pytest.mark.parametrize("name", ["pearson", "spearman", "r2"])
def test_a_score_without_a_unit_does_not_depend_on_the_scale(name: str, scale: float) -> None:
    rng = np.random.default_rng(0)
    references = rng.normal(size=30)
    predictions = references + rng.normal(size=30)
    expected = score(name, predictions, references)
    assert score(name, predictions * scale, references * scale) == pytest.approx(expected)


def test_matthews_correlation_of_a_million_rows_does_not_overflow() -> None:
    ids = np.arange(1_000_000) % 3
    assert score("matthews_correlation", ids, ids) == pytest.approx(1.0)


# What is asked for by name


def test_names_are_ours_sorted() -> None:
    assert [name for name in metrics.names() if name in OURS] == OURS
    assert metrics.names() == sorted(metrics.names())


def test_f1_of_two_classes_is_the_mean_over_both() -> None:
    assert score("f1", [1, 1, 1, 0], [1, 1, 0, 0]) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_accuracy_of_label_rows_wants_every_label_right() -> None:
    assert score("accuracy", [[1, 0], [1, 1]], [[1, 0], [1, 0]]) == 0.5


def test_exact_match_leaves_surrounding_space_out() -> None:
    assert score("exact_match", [" Paris\n", "paris", "a b"], ["Paris", "Paris", "a  b"]) == pytest.approx(1 / 3)


def test_exact_match_does_not_read_strings_as_numbers() -> None:
    assert score("exact_match", ["1", "2"], ["1", "2.0"]) == 0.5


def test_several_metrics_come_in_one_dict_of_python_floats() -> None:
    scores = metrics.compute(CLASSIFICATION, np.array([0, 1, 2]), np.array([0, 1, 1]))
    assert list(scores) == CLASSIFICATION
    assert {type(value) for value in scores.values()} == {float}


@pytest.mark.parametrize("form", [list, tuple, np.array, np.float32, lambda ids: np.array(ids) == 1])
def test_class_ids_may_be_any_whole_numbers_in_any_sequence(form: Callable[[list[int]], Any]) -> None:
    assert score("accuracy", form([0, 1, 1]), [0, 1, 0]) == pytest.approx(2 / 3)


# Where a score is undefined


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize(
    ("predictions", "references"),
    [([0.1] * 3, [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [0.1] * 3), ([0.1] * 3, [0.1] * 3), ([1.0], [2.0])],
)
def test_a_correlation_with_a_constant_is_zero(name: str, predictions: list[float], references: list[float]) -> None:
    assert score(name, predictions, references) == 0.0


@pytest.mark.parametrize(("predictions", "references"), [([1, 1], [0, 1]), ([0, 1], [1, 1]), ([1, 1], [1, 1])])
def test_matthews_correlation_with_one_class_is_zero(predictions: list[int], references: list[int]) -> None:
    assert score("matthews_correlation", predictions, references) == 0.0


@pytest.mark.parametrize("name", ["f1", "f1_micro", "f1_weighted", "precision", "recall"])
def test_label_rows_without_a_label_score_zero(name: str) -> None:
    assert score(name, [[0, 0], [0, 0]], [[0, 0], [0, 0]]) == 0.0


def test_precision_of_a_class_never_predicted_is_zero() -> None:
    assert score("precision", [0, 0], [0, 1]) == 0.25


@pytest.mark.parametrize(("predictions", "expected"), [([0.1, 0.1, 0.1], 1.0), ([0.1, 0.1, 0.2], 0.0)])
def test_r2_of_constant_references_is_one_where_exact_and_zero_elsewhere(
    predictions: list[float], expected: float
) -> None:
    assert score("r2", predictions, [0.1, 0.1, 0.1]) == expected


@pytest.mark.parametrize("name", REGRESSION)
def test_one_example_gives_a_finite_score(name: str) -> None:
    assert math.isfinite(score(name, [1.0], [3.0]))


# What is refused


@pytest.mark.parametrize("name", OURS)
def test_nothing_to_score_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="no predictions"):
        metrics.compute([name], [], [])


@pytest.mark.parametrize("name", OURS)
def test_lengths_that_differ_are_refused_and_named(name: str) -> None:
    with pytest.raises(UserError, match=r"2 predictions and 3 references"):
        metrics.compute([name], [0, 1], [0, 1, 1])


@pytest.mark.parametrize(
    ("name", "predictions", "references", "message"),
    [
        ("accuracy", [[0.2, 0.8], [0.9, 0.1]], [1, 0], "argmax"),
        ("accuracy", [0.7], [1], "argmax"),
        ("accuracy", [float("nan")], [1], "class ids"),
        ("accuracy", ["cat"], ["cat"], "class ids"),
        ("accuracy", [None], [1], "class ids"),
        ("accuracy", [[1], [1, 0]], [[1], [1]], "different lengths"),
        ("accuracy", [[0, 2]], [[0, 1]], "0 or 1"),
        ("accuracy", [[1, 0]], [1], "shape"),
        ("accuracy", [[]], [[]], "class ids"),
        ("matthews_correlation", [[1, 0]], [[1, 0]], "class ids"),
        ("mse", [[1.0], [2.0]], [1.0, 2.0], "one number an example"),
        ("mse", [1.0, float("inf")], [1.0, 2.0], "first at 1"),
        ("pearson", ["a"], [1.0], "one number an example"),
        ("exact_match", [1], ["1"], "strings"),
        ("exact_match", "Paris", ["Paris"] * 5, "one string"),
    ],
)
def test_input_that_does_not_fit_is_refused(name: str, predictions: Any, references: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        metrics.compute([name], predictions, references)


def test_a_metric_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="gives f1"):
        metrics.compute(["f1", "f1"], [0, 1], [0, 1])


@pytest.mark.parametrize("ask", [metrics.load, lambda name: metrics.compute([name], [0], [0])])
def test_an_unknown_name_is_refused_with_the_nearest_and_all_there_are(ask: Callable[[str], Any]) -> None:
    with pytest.raises(UserError, match=r"Did you mean accuracy\?.*exact_match.*spearman"):
        ask("acuracy")


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UserError, match="There is no metric"):
        metrics.load("")


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no metric"):
        metrics.load(str(tmp_path / "off.py"))


def test_a_folder_without_a_script_of_its_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path.name}\.py"):
        metrics.load(str(tmp_path))


# The interface of `evaluate`


def sample(name: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(7)
    if name == "exact_match":
        return ["1", " b", "null", "d", "e"], ["1", "b", "null", "x", "1e0"]
    if name in REGRESSION:
        return rng.normal(size=5), rng.normal(size=5)
    return rng.integers(0, 3, 5), rng.integers(0, 3, 5)


@pytest.mark.parametrize("name", OURS)
def test_batches_added_to_the_evaluate_metric_score_as_compute_does(name: str) -> None:
    evaluate = pytest.importorskip("evaluate")
    predictions, references = sample(name)
    metric = metrics.load(name)
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == name
    for rows in (slice(0, 2), slice(2, 5)):
        metric.add_batch(predictions=predictions[rows], references=references[rows])
    expected = metrics.compute([name], predictions, references)
    assert metric.compute() == expected
    assert metric.compute(predictions=predictions, references=references) == expected


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("form", [np.array, list])
def test_the_evaluate_metric_takes_label_rows(name: str, form: Callable[[Any], Any]) -> None:
    predictions, references = [[1, 0, 1], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]]
    scores = metrics.load(name).compute(predictions=form(predictions), references=form(references))
    assert scores == metrics.compute([name], predictions, references)


def test_the_evaluate_metric_takes_one_example_at_a_time() -> None:
    metric = metrics.load("accuracy")
    metric.add(prediction=1, reference=1)
    metric.add(prediction=0, reference=1)
    assert metric.compute() == {"accuracy": 0.5}


def test_the_evaluate_metric_does_not_cut_fractions_to_class_ids() -> None:
    metric = metrics.load("accuracy")
    metric.add_batch(predictions=[1, 0], references=[1, 0])
    metric.add_batch(predictions=[0.7], references=[0])
    with pytest.raises(UserError, match="argmax"):
        metric.compute()


@pytest.mark.parametrize(("predictions", "message"), [([], "no predictions"), ([1, 1], "2 predictions and 0")])
def test_the_evaluate_metric_refuses_what_compute_refuses(predictions: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        metrics.load("accuracy").compute(predictions=predictions, references=[])


def test_evaluate_combines_our_metrics() -> None:
    evaluate = pytest.importorskip("evaluate")
    combined = evaluate.combine([metrics.load("accuracy"), metrics.load("recall")])
    assert combined.compute(predictions=[0, 1], references=[0, 1]) == {"accuracy": 1.0, "recall": 1.0}


def test_nothing_is_written_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metrics.load("accuracy").compute(predictions=[0], references=[0])
    assert list(tmp_path.iterdir()) == []


def test_our_metrics_are_computed_without_evaluate_torch_or_datasets() -> None:
    code = (
        "import sys; from finetune.evaluation import metrics; metrics.compute(['f1', 'accuracy'], [0, 1], [0, 1]);"
        "sys.exit(' '.join({'evaluate', 'torch', 'datasets', 'pandas', 'sklearn', 'scipy'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Metrics of others


@pytest.mark.parametrize("of", ["script", "folder"])
def test_a_local_metric_script_is_loaded_and_its_numbers_kept(tmp_path: Path, of: str) -> None:
    folder = tmp_path / "off"
    folder.mkdir()
    (folder / "off.py").write_text(SCRIPT)
    name = str(folder / "off.py" if of == "script" else folder)
    assert metrics.load(name).compute(predictions=[1, 2], references=[1, 3]) == {"off": 1, "each": [1, 2]}
    assert metrics.compute(["accuracy", name], [1, 2], [1, 3]) == {"accuracy": 0.5, "off": 1.0}


def test_a_metric_script_that_needs_a_missing_package_says_which(tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text(f"import no_such_package\n{SCRIPT}")
    with pytest.raises(MachineError, match="no_such_package"):
        metrics.load(str(tmp_path / "needy.py"))


def test_an_entry_point_is_named_computed_and_loaded(plug_in: Callable[[str, Any], None]) -> None:
    plug_in("bias", lambda p, r: {"bias": np.float32(np.mean(p) - np.mean(r)), "rows": len(p)})
    assert "bias" in metrics.names()
    scores = metrics.compute(["mae", "bias"], [1.0, 2.0], [1.0, 1.0])
    assert scores == {"mae": 0.5, "bias": 0.5, "rows": 2.0}
    assert {type(value) for value in scores.values()} == {float}
    assert metrics.load("bias").compute(predictions=[1.0, 2.0], references=[1.0, 1.0]) == {"bias": 0.5, "rows": 2.0}


def test_compute_hands_an_entry_point_what_it_was_given(plug_in: Callable[[str, Any], None]) -> None:
    seen: list[Any] = []
    plug_in("spy", lambda p, r: seen.extend([p, r]) or {"spy": 0.0})
    predictions, references = [{"span": 1}], [1]
    metrics.compute(["spy"], predictions, references)
    assert seen[0] is predictions
    assert seen[1] is references


@pytest.mark.parametrize(
    ("predictions", "references"),
    [(["a"], ["b"]), ([[0.1, 0.9]], [1.0]), ([[0.1, 0.9]], ["a"]), ([1.0], ["a"])],
)
def test_the_evaluate_metric_of_an_entry_point_takes_strings_numbers_and_rows(
    plug_in: Callable[[str, Any], None], predictions: Any, references: Any
) -> None:
    seen: list[Any] = []
    plug_in("spy", lambda p, r: seen.extend([p, r]) or {"spy": 0.0})
    metrics.load("spy").compute(predictions=predictions, references=references)
    assert [list(side) for side in seen] == [predictions, references]


@pytest.mark.parametrize("result", [0.5, {}, {"each": [0.1, 0.2]}, {"name": "x"}, None])
def test_an_entry_point_that_gives_no_numbers_is_refused(plug_in: Callable[[str, Any], None], result: Any) -> None:
    plug_in("odd", lambda p, r: result)
    with pytest.raises(UserError, match="Metric odd must give a dict"):
        metrics.compute(["odd"], [1], [1])


def test_two_results_of_one_key_are_refused(plug_in: Callable[[str, Any], None]) -> None:
    plug_in("mine", lambda p, r: {"accuracy": 1.0})
    with pytest.raises(UserError, match="mine gives accuracy"):
        metrics.compute(["accuracy", "mine"], [1], [1])


def test_a_name_registered_twice_is_refused(plug_in: Callable[[str, Any], None]) -> None:
    plug_in("mine", lambda p, r: {"mine": 1.0})
    plug_in("mine", lambda p, r: {"mine": 2.0})
    with pytest.raises(UserError, match="more than once"):
        metrics.load("mine")


def test_an_entry_point_cannot_replace_one_of_ours(plug_in: Callable[[str, Any], None]) -> None:
    plug_in("accuracy", lambda p, r: {"accuracy": 9.0})
    assert score("accuracy", [1], [1]) == 1.0


# seqeval's rules, as it publishes them: https://github.com/chakki-works/seqeval/blob/master/seqeval/metrics/sequence_labeling.py


def _ends(before: tuple[str, str], now: tuple[str, str]) -> bool:
    ended = before[0] in "ES" or (before[0] in "BI" and now[0] in "BSO")
    return ended or (before[0] != "O" and before[1] != now[1])


def _starts(before: tuple[str, str], now: tuple[str, str]) -> bool:
    started = now[0] in "BS" or (before[0] in "ESO" and now[0] in "EI")
    return started or (now[0] != "O" and before[1] != now[1])


def by_seqeval(tags: list[str]) -> set[tuple[str, int, int]]:
    """Label, first word and the word behind the last, of each entity."""
    found, begin, before = set(), 0, ("O", "")
    for at, tag in enumerate([*tags, "O"]):
        now = (tag[0], tag[2:])
        if _ends(before, now):
            found.add((before[1], begin, at))
        if _starts(before, now):
            begin = at
        before = now
    return found


def test_entities_of_any_tags_are_those_of_seqeval() -> None:
    random = np.random.default_rng(1)
    names = ["O", *(f"{prefix}-{label}" for prefix in "BIES" for label in "xy")]
    for _ in range(2000):
        tags = random.choice(names, random.integers(1, 9)).tolist()
        assert {entity[1:] for entity in scores.entities([tags])} == by_seqeval(tags), tags


@pytest.mark.parametrize(
    ("predicted", "expected", "score"),
    [
        ("B-P E-P E-P", "B-P E-P O", 2 / 3),
        ("S-P I-P B-P E-P", "S-P O B-P E-P", 0.8),
        ("B-P I-P O", "B-P I-P O", 1.0),
    ],
)
def test_an_entity_ends_where_its_tag_says_so(predicted: str, expected: str, score: float) -> None:
    """The scores are those that seqeval 1.2.2 prints."""
    assert scores.entity_f1([predicted.split()], [expected.split()]) == pytest.approx(score)


@pytest.mark.parametrize(
    ("name", "is_lower"),
    [("eval_loss", True), ("perplexity", True), ("eval_books_loss", True), ("eval_wer", True), ("rmse", True),
     ("eval_accuracy", False), ("f1", False), ("eval_reward_margin", False), ("roc_auc", False)],
)  # fmt: skip
def test_which_of_two_scores_is_the_better_one_is_known(name, is_lower):
    assert table.is_lower_better(name) is is_lower
