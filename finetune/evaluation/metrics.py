"""Metrics that need no network, through the interface of `evaluate`. Knows predictions and references, and nothing of
models, tasks or files.

    class ids, (n,), or 0/1 labels, (n, labels)   accuracy f1 f1_micro f1_weighted precision recall
    class ids, (n,)                               matthews_correlation
    numbers, (n,)                                 pearson spearman mse rmse mae r2
    strings, (n,)                                 exact_match

`f1`, `precision` and `recall` are the unweighted mean over classes (macro), for two classes too, as in scikit-learn's
`average="macro"`. The classes are those that occur in predictions or references. With 0/1 labels, `accuracy` counts
the rows that are right in every label.

A score that is undefined is 0.0, never nan: precision of a class never predicted, recall of a class that never occurs,
a correlation where one side is constant. `r2` of constant references is 1.0 where every prediction is exact, else 0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.config.suggest import nearest
from finetune.errors import MachineError, UserError

if TYPE_CHECKING:
    import evaluate
    from datasets import Features

ENTRY_POINTS = "finetune.metrics"

Array = NDArray[Any]
Scores = dict[str, float]
Score = Callable[[Any, Any], Scores]
Function = Callable[[Any, Any], Mapping[str, Any]]
"""Anybody's metric: what it gives is checked."""


def names() -> list[str]:
    """Every metric that needs no network: ours and those of the entry point group `finetune.metrics`, sorted."""
    return sorted({*METRICS, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def load(name: str) -> evaluate.Metric:
    """The metric as `evaluate` knows metrics: `compute(predictions=, references=)`, `add`, `add_batch`.

    Looked for in this order: ours, an entry point, a local metric script or its folder, the Hub. `evaluate` keeps
    what it is given in typed columns, so an entry point gets strings, floats or rows of floats here; from `compute` it
    gets what was given.

    Raises:
        UserError: there is no such metric.
        MachineError: the metric needs a package that is not installed.
    """
    metric = METRICS.get(name)
    if metric:
        return _as_evaluate(name, partial(_score, name), metric.columns)
    function = _entry_point(name)
    if function:
        return _as_evaluate(name, partial(_score_of, name, function), ANY_COLUMNS)
    return _script(name)


def compute(names: Sequence[str], predictions: Any, references: Any) -> Scores:
    """Every metric of `names` in one dict of Python floats.

    Of a metric script's results, those that are one number are kept.

    Args:
        names: What `load` takes.
        predictions: n class ids, n numbers, n strings, or n rows of 0/1 labels, in a sequence or an array.
        references: The same shape.

    Raises:
        UserError: no such metric; nothing to score; lengths, shapes or types that do not fit; two results of one key.
        MachineError: a metric needs a package that is not installed.
    """
    scores: Scores = {}
    for name in names:
        found = _function(name)(predictions, references)
        clash = sorted(scores.keys() & found.keys())
        if clash:
            raise UserError(f"Metric {name} gives {', '.join(clash)}, and so does one before it. Name one of them.")
        scores |= found
    return scores


# Finding a metric


def _function(name: str) -> Score:
    if name in METRICS:
        return partial(_score, name)
    return partial(_score_of, name, _entry_point(name) or _of_script(_script(name)))


def _score(name: str, predictions: Any, references: Any) -> Scores:
    metric = METRICS[name]
    _check_paired(predictions, references)
    predicted, expected = metric.read("predictions", predictions), metric.read("references", references)
    if predicted.shape != expected.shape:
        raise UserError(f"Predictions have shape {predicted.shape}, references {expected.shape}. They must be equal.")
    return {name: float(metric.score(predicted, expected))}


def _score_of(name: str, function: Function, predictions: Any, references: Any) -> Scores:
    _check_paired(predictions, references)
    result = function(predictions, references)
    if not isinstance(result, Mapping) or not result or not all(_is_number(value) for value in result.values()):
        raise UserError(f"Metric {name} must give a dict of names to numbers. It gave {result!r}.")
    return {str(key): float(value) for key, value in result.items()}


def _entry_point(name: str) -> Function | None:
    points = entry_points(group=ENTRY_POINTS, name=name)
    if len(points) > 1:
        raise UserError(f"Metric {name} is registered more than once: {', '.join(point.value for point in points)}.")
    return next((_import(point) for point in points), None)


def _import(point: EntryPoint) -> Function:
    try:
        function: Function = point.load()
    except ImportError as error:
        raise MachineError(f"Metric {point.name} ({point.value}) cannot be imported: {error}") from error
    return function


def _script(name: str) -> evaluate.Metric:
    if not name:
        raise UserError("A metric has an empty name.")
    import evaluate

    try:
        return evaluate.load(name, keep_in_memory=True)
    except ImportError as error:
        raise MachineError(f"Metric {name} cannot be loaded: {error}") from error
    except (FileNotFoundError, ConnectionError) as error:
        raise UserError(_no_such_metric(name)) from error


def _no_such_metric(name: str) -> str:
    if Path(name).exists():
        return f"{name} is no metric script. A folder must hold a script of its own name: {Path(name).name}.py"
    near = nearest(name, names())
    hint = f" Did you mean {near}?" if near else ""
    return (
        f"There is no metric {name}.{hint} Known without a network: {', '.join(names())}. "
        "A path to a metric script, or a metric of the Hub where it can be reached, also works."
    )


def _of_script(metric: evaluate.Metric) -> Function:
    def score(predictions: Any, references: Any) -> dict[str, Any]:
        result = metric.compute(predictions=predictions, references=references)
        return {key: value for key, value in result.items() if _is_number(value)}

    return score


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf"


# Reading predictions and references


def _check_paired(predictions: Any, references: Any) -> None:
    if isinstance(predictions, str) or isinstance(references, str):
        raise UserError("Predictions and references must be sequences, one entry an example. Got one string.")
    if len(predictions) != len(references):
        raise UserError(f"There are {len(predictions)} predictions and {len(references)} references.")
    if len(predictions) == 0:
        raise UserError("There are no predictions to score.")


def _array(side: str, values: Any) -> Array:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise UserError(f"The {side} have rows of different lengths.") from error


def _labels(side: str, values: Any) -> Array:
    array = _array(side, values)
    if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind not in "biuf":
        raise UserError(f"The {side} must be class ids, or rows of 0/1 labels. Got {_described(array)}.")
    if not (np.isfinite(array) & (array == np.floor(array))).all():
        raise UserError(f"The {side} must be class ids. Got fractions: take the argmax, or a threshold, first.")
    if array.ndim == 2 and not np.isin(array, (0, 1)).all():
        raise UserError(f"The {side} have two dimensions, so every entry must be 0 or 1: label given or not.")
    return array.astype(np.int64)


def _numbers(side: str, values: Any) -> Array:
    array = _array(side, values)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise UserError(f"The {side} must be one number an example. Got {_described(array)}.")
    if not np.isfinite(array).all():
        raise UserError(f"The {side} hold nan or infinity, first at {int(np.argmin(np.isfinite(array)))}.")
    return array.astype(np.float64)


def _texts(side: str, values: Any) -> Array:
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"The {side} must be strings.")
    return np.array([value.strip() for value in values], dtype=object)


def _described(array: Array) -> str:
    return f"{array.dtype.name} of shape {array.shape}"


# Classification


@dataclass(frozen=True)
class Counts:
    """What every score but subset accuracy follows from: three vectors, one entry a class."""

    correct: Array
    predicted: Array
    expected: Array

    @classmethod
    def of(cls, predictions: Array, references: Array) -> Counts:
        """Counts of class ids, (n,), or of 0/1 labels, (n, labels)."""
        if predictions.ndim == 2:
            return cls((predictions & references).sum(0), predictions.sum(0), references.sum(0))
        classes, ids = np.unique(np.concatenate([predictions, references]), return_inverse=True)
        predicted, expected = np.split(ids, 2)
        count = partial(np.bincount, minlength=len(classes))
        return cls(count(predicted[predicted == expected]), count(predicted), count(expected))


def _ratio(numerator: Any, denominator: Any) -> Array:
    """The quotient in float64, 0.0 where the denominator is 0."""
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator)
    quotient: Array = np.divide(top, bottom, out=np.zeros(top.shape), where=bottom != 0)
    return quotient


def _accuracy(predictions: Array, references: Array) -> float:
    same = predictions == references
    return float((same if same.ndim == 1 else same.all(axis=1)).mean())


def _f1_of_classes(counts: Counts) -> Array:
    return _ratio(2 * counts.correct, counts.predicted + counts.expected)


def _f1(predictions: Array, references: Array) -> float:
    return float(_f1_of_classes(Counts.of(predictions, references)).mean())


def _f1_micro(predictions: Array, references: Array) -> float:
    counts = Counts.of(predictions, references)
    return float(_ratio(2 * counts.correct.sum(), counts.predicted.sum() + counts.expected.sum()))


def _f1_weighted(predictions: Array, references: Array) -> float:
    counts = Counts.of(predictions, references)
    return float(_ratio(_f1_of_classes(counts) @ counts.expected, counts.expected.sum()))


def _precision(predictions: Array, references: Array) -> float:
    counts = Counts.of(predictions, references)
    return float(_ratio(counts.correct, counts.predicted).mean())


def _recall(predictions: Array, references: Array) -> float:
    counts = Counts.of(predictions, references)
    return float(_ratio(counts.correct, counts.expected).mean())


def _matthews(predictions: Array, references: Array) -> float:
    """The multi-class coefficient, R_K of https://doi.org/10.1016/j.compbiolchem.2004.09.006."""
    if predictions.ndim == 2:
        raise UserError("matthews_correlation is defined for class ids, not for rows of 0/1 labels.")
    counts = Counts.of(predictions, references)
    total = len(references)
    covariance = total * counts.correct.sum() - counts.predicted @ counts.expected
    spread = [np.sqrt(float(total**2 - side @ side)) for side in (counts.predicted, counts.expected)]
    return float(_ratio(covariance, spread[0] * spread[1]))


# Regression


def _pearson(predictions: Array, references: Array) -> float:
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    return float(np.clip(_direction(predictions) @ _direction(references), -1.0, 1.0))


def _direction(values: Array) -> Array:
    """The centred values at length 1."""
    centred = values - values.mean()
    # Scaled first: the squares of very small or very large numbers leave the range of a float.
    scaled: Array = centred / np.abs(centred).max()
    return scaled / float(np.linalg.norm(scaled))


def _spearman(predictions: Array, references: Array) -> float:
    return _pearson(_ranks(predictions), _ranks(references))


def _ranks(values: Array) -> Array:
    """Ranks from 1; tied values share the mean of their ranks."""
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.cumsum(size) - (size - 1) / 2
    return np.asarray(rank[group])


def _mse(predictions: Array, references: Array) -> float:
    return float(np.square(predictions - references).mean())


def _rmse(predictions: Array, references: Array) -> float:
    return float(np.sqrt(_mse(predictions, references)))


def _mae(predictions: Array, references: Array) -> float:
    return float(np.abs(predictions - references).mean())


def _r2(predictions: Array, references: Array) -> float:
    if np.ptp(references) == 0:
        return float((predictions == references).all())
    spread = np.ptp(references)
    errors, deviations = (predictions - references) / spread, (references - references.mean()) / spread
    return 1.0 - float(np.square(errors).sum() / np.square(deviations).sum())


# The interface of `evaluate`


def _as_evaluate(name: str, score: Score, columns: Sequence[tuple[str, str]]) -> evaluate.Metric:
    import evaluate

    class FunctionMetric(evaluate.Metric):
        """One function behind the interface of `evaluate`."""

        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description=f"The metric {name}.",
                citation="",
                inputs_description="",
                features=[_features(*kinds) for kinds in columns],
            )

        def add_batch(self, *, predictions: Any = None, references: Any = None) -> None:
            """Add a batch; refused where it is empty or its sides differ in length."""
            _check_paired(predictions, references)
            super().add_batch(predictions=predictions, references=references)

        def _compute(self, predictions: list[Any], references: list[Any]) -> Scores:
            return score(predictions, references)

    metric = FunctionMetric(keep_in_memory=True)
    metric.info.module_name = name
    return metric


def _features(predictions: str, references: str) -> Features:
    from datasets import Features, List, Value

    def column(kind: str) -> Value | List:
        return List(Value("float64")) if kind == "float64s" else Value(kind)

    return Features({"predictions": column(predictions), "references": column(references)})


@dataclass(frozen=True)
class Metric:
    """A score, how its two sides are read, and the columns that can hold them."""

    score: Callable[[Array, Array], float]
    read: Callable[[str, Any], Array]
    columns: Sequence[tuple[str, str]]


# `float64s` is a column of rows. Class ids are float columns too: an integer column cuts 0.7 down to 0 without a word.
LABEL_COLUMNS = (("float64s", "float64s"), ("float64", "float64"))
NUMBER_COLUMNS = (("float64", "float64"),)
TEXT_COLUMNS = (("string", "string"),)
ANY_KIND = ("string", "float64s", "float64")
ANY_COLUMNS = [(predictions, references) for predictions in ANY_KIND for references in ANY_KIND]

METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(_accuracy, _labels, LABEL_COLUMNS),
    "f1": Metric(_f1, _labels, LABEL_COLUMNS),
    "f1_micro": Metric(_f1_micro, _labels, LABEL_COLUMNS),
    "f1_weighted": Metric(_f1_weighted, _labels, LABEL_COLUMNS),
    "precision": Metric(_precision, _labels, LABEL_COLUMNS),
    "recall": Metric(_recall, _labels, LABEL_COLUMNS),
    "matthews_correlation": Metric(_matthews, _labels, LABEL_COLUMNS),
    "pearson": Metric(_pearson, _numbers, NUMBER_COLUMNS),
    "spearman": Metric(_spearman, _numbers, NUMBER_COLUMNS),
    "mse": Metric(_mse, _numbers, NUMBER_COLUMNS),
    "rmse": Metric(_rmse, _numbers, NUMBER_COLUMNS),
    "mae": Metric(_mae, _numbers, NUMBER_COLUMNS),
    "r2": Metric(_r2, _numbers, NUMBER_COLUMNS),
    "exact_match": Metric(_accuracy, _texts, TEXT_COLUMNS),
}
