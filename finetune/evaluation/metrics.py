"""Metrics that need no network, through the interface of `evaluate`. Knows predictions and references, and nothing of
models, tasks or files.

    class ids, (n,), or 0/1 labels, (n, labels)   accuracy f1 f1_micro f1_weighted precision recall
    class ids, (n,)                               matthews_correlation
    numbers, (n,)                                 pearson spearman mse rmse mae r2
    rewards of chosen and of rejected, (n,)       reward_margin reward_accuracy
    scores and 0/1 labels, (n,)                   label_margin roc_auc
    lists of tags, (n,)                           entity_f1 entity_precision entity_recall tag_accuracy
    numbers, and labels 0/1, (n,)                 average_precision
    lists of scores, and of relevance, (n,)       mrr@10 ndcg@10 recall@1 recall@10 pairwise_accuracy
    texts, each against one or several, (n,)      exact_match sacrebleu chrf rouge1 rouge2 rougeL
                                                  squad_exact_match squad_f1 wer cer

`f1`, `precision` and `recall` are the unweighted mean over classes (macro), for two classes too, as in scikit-learn's
`average="macro"`. The classes are those that occur in predictions or references. With 0/1 labels, `accuracy` counts
the rows that are right in every label.

A score that is undefined is 0.0, never nan: precision of a class never predicted, recall of a class that never occurs,
a correlation where one side is constant. `r2` of constant references is 1.0 where every prediction is exact, else 0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.config.suggest import nearest
from finetune.errors import MachineError, UserError
from finetune.evaluation import inputs
from finetune.evaluation.table import METRICS

if TYPE_CHECKING:
    import evaluate
    from datasets import Features

ENTRY_POINTS = "finetune.metrics"

Scores = dict[str, float]
Score = Callable[[Any, Any], Scores]
Function = Callable[[Any, Any], Mapping[str, Any]]
"""Anybody's metric: what it gives is checked."""


def names() -> list[str]:
    """Every metric that needs no network: ours and those of the entry point group `finetune.metrics`, sorted."""
    return sorted({*METRICS, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def load(name: str) -> evaluate.Metric:
    """The metric as `evaluate` knows metrics: `compute(predictions=, references=)`, `add`, `add_batch`.

    Looked for in this order: ours, an entry point, a local metric script or its folder. `evaluate` keeps
    what it is given in typed columns, so an entry point gets strings, floats or rows of floats here; from `compute` it
    gets what was given.

    Raises:
        UserError: there is no such metric.
        MachineError: the metric needs a package that is not installed.
    """
    metric = METRICS.get(name)
    if metric:
        metric.check()
        return _as_evaluate(name, partial(_score, name), metric.columns)
    function = _entry_point(name)
    if function:
        return _as_evaluate(name, partial(_score_of, name, function), ANY_COLUMNS)
    return _script(name)


def check(name: str) -> None:
    """Refuse a metric that could not be computed.

    Raises:
        UserError: there is no such metric.
        MachineError: the metric needs a package that is not installed.
    """
    if name in METRICS:
        METRICS[name].check()
    elif name not in names():
        load(name)


def of_texts(name: str) -> bool:
    """Whether it is a metric of ours that compares texts, and so nothing that a head predicts."""
    return name in METRICS and METRICS[name].columns[0][0] == "string"


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
    found_all: Scores = {}
    for name in names:
        found = _function(name)(predictions, references)
        clash = sorted(found_all.keys() & found.keys())
        if clash:
            raise UserError(f"Metric {name} gives {', '.join(clash)}, and so does one before it. Name one of them.")
        found_all |= found
    return found_all


# Finding a metric


def _function(name: str) -> Score:
    if name in METRICS:
        return partial(_score, name)
    return partial(_score_of, name, _entry_point(name) or _of_script(_script(name)))


def _score(name: str, predictions: Any, references: Any) -> Scores:
    metric = METRICS[name]
    metric.check()
    inputs.check_paired(predictions, references)
    predicted, expected = metric.read("predictions", predictions), metric.read("references", references)
    if predicted.shape != expected.shape:
        raise UserError(f"Predictions have shape {predicted.shape}, references {expected.shape}. They must be equal.")
    return {name: float(metric.score(predicted, expected))}


def _score_of(name: str, function: Function, predictions: Any, references: Any) -> Scores:
    inputs.check_paired(predictions, references)
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
    if not name or not Path(name).exists():
        raise UserError(_no_such_metric(name))
    import evaluate

    try:
        return evaluate.load(name, keep_in_memory=True)
    except ImportError as error:
        raise MachineError(f"Metric {name} cannot be loaded: {error}") from error
    except (FileNotFoundError, ConnectionError) as error:
        raise UserError(_no_such_metric(name)) from error


def _no_such_metric(name: str) -> str:
    if name and Path(name).exists():
        return f"{name} is no metric script. A folder must hold a script of its own name: {Path(name).name}.py"
    near = nearest(name, names())
    hint = f" Did you mean {near}?" if near else ""
    return (
        f"There is no metric {name}.{hint} Known without a network: {', '.join(names())}. "
        "The path of a metric script also works; one from the Hub is downloaded first, because it is somebody's code."
    )


def _of_script(metric: evaluate.Metric) -> Function:
    def score(predictions: Any, references: Any) -> dict[str, Any]:
        result = metric.compute(predictions=predictions, references=references)
        return {key: value for key, value in result.items() if _is_number(value)}

    return score


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf"


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
            inputs.check_paired(predictions, references)
            super().add_batch(predictions=predictions, references=references)

        def _compute(self, predictions: list[Any], references: list[Any]) -> Scores:
            return score(predictions, references)

    metric = FunctionMetric(keep_in_memory=True)
    metric.info.module_name = name
    return metric


ANY_KIND = ("string", "float64s", "float64")
ANY_COLUMNS = [(predictions, references) for predictions in ANY_KIND for references in ANY_KIND]


def _features(predictions: str, references: str) -> Features:
    from datasets import Features, List, Value

    def column(kind: str) -> Value | List:
        return List(Value(kind.removesuffix("s"))) if kind.endswith("s") else Value(kind)

    return Features({"predictions": column(predictions), "references": column(references)})
