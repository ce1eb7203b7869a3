"""Classes and numbers that rows are labelled with: their kind, their names, and the ids that the names stand for.

Cheap to import. Knows no texts and no tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from finetune.config.task import Facts, RowError
from finetune.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def describe(train: Dataset, column: str, wanted: str) -> Facts:
    """The kind of the labels of a column, and their names.

    Args:
        wanted: the kind as the user wrote it, or auto.
    Raises:
        UserError: there is nothing to tell apart.
    """
    own_names = _own_names(train, column)
    values = [value for value in train[column] if not _missing(value, own_names)]
    if not values:
        raise UserError(f"column {column} of train holds no label")
    problem = wanted if wanted != "auto" else _problem_type(values, len(train))
    if problem == REGRESSION:
        return {"problem_type": problem, "labels": []}
    present = _present(values, own_names)
    if problem == SINGLE and len(present) < 2:
        raise UserError(f"column {column} of train holds one label only: {_name(present[0], own_names)}")
    return {"problem_type": problem, "labels": own_names or [_name(value, own_names) for value in present]}


def join(facts: Sequence[Facts]) -> list[Facts]:
    """The facts of several sources with one set of names, in the order in which they come.

    Raises:
        UserError: the sources hold labels of different kinds.
    """
    kinds = {found["problem_type"] for found in facts}
    if len(kinds) > 1:
        raise UserError(f"the sources hold labels of different kinds: {', '.join(sorted(kinds))}")
    names = list(dict.fromkeys(name for found in facts for name in found["labels"]))
    return [{**found, "labels": names} for found in facts]


def agreed(labels: list[str], brought: Sequence[str]) -> list[str]:
    """The labels of the data in the order of the ids that the model's own head has for them.

    Args:
        labels: names in the data.
        brought: names that the model brings, by id; none where its head has no names.
    Raises:
        UserError: the data has a label that the model has not.
    """
    if not brought or list(brought) == labels:
        return labels
    own = {name.casefold(): name for name in labels}
    others = [name for name in labels if name.casefold() not in {each.casefold() for each in brought}]
    if others or len(own) < len(labels):
        raise UserError(
            f"the model brings a head for the labels {', '.join(brought)}, and the data has {', '.join(labels)}. "
            f"Where they mean the same, write which is which: model.config.id2label={{0: {labels[0]}, …}}. "
            "To learn other labels with a new head, write model.ignore_mismatched_sizes=true"
        )
    return [own.get(name.casefold(), name) for name in brought]


def names_of(train: Dataset, column: str) -> list[str]:
    """The names of all labels in a column of lists: those the data set keeps, else those that occur, sorted."""
    if own := _own_names(train, column):
        return own
    found = {label for labels in train[column] if isinstance(labels, list) for label in labels}
    return [str(label) for label in sorted(found, key=lambda label: (isinstance(label, str), label))]


def namer(rows: Dataset, column: str) -> Callable[[Any], str]:
    """From a label of a column to its name; an id that the data set has no name for is its own."""
    own = _own_names(rows, column) or []
    return lambda label: own[label] if isinstance(label, int) and 0 <= label < len(own) else str(label)


def reader(rows: Dataset, facts: Facts) -> Callable[[Any, int], Any]:
    """From a raw label and its row's index to what the loss takes; a label that train has not is refused."""
    if facts["problem_type"] == REGRESSION:
        return _number
    own_names = _own_names(rows, facts["columns"]["label"])
    ids = {name: identifier for identifier, name in enumerate(facts["labels"])}

    def one(value: Any, index: int) -> int:
        if _missing(value, own_names):
            raise RowError("no label")
        name = _name(value, own_names)
        if name not in ids:
            raise UserError(f"row {index}: label {name!r} does not occur in train, which has {', '.join(ids)}")
        return ids[name]

    def several(value: Any, index: int) -> list[float]:
        if value is None:
            raise RowError("no label")
        if not isinstance(value, list):
            raise UserError(f"row {index}: label {value!r} is not a list of labels")
        chosen = {one(part, index) for part in value}
        return [float(identifier in chosen) for identifier in range(len(ids))]

    return several if facts["problem_type"] == MULTI else one


def _number(value: Any, index: int) -> float:
    if _missing(value):
        raise RowError("no label")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"row {index}: label {value!r} is not a number, as a regression needs") from None


def _own_names(rows: Dataset, column: str) -> list[str] | None:
    """The names that a data set keeps beside its label ids."""
    feature = rows.features[column]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return list(names) if names else None


def _missing(value: Any, own_names: list[str] | None = None) -> bool:
    """Whether there is no label; -1 is what data sets with names write for one that is kept secret."""
    if own_names and isinstance(value, int) and value < 0:
        return True
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _problem_type(values: Sequence[Any], rows: int) -> str:
    """By the values that are there; a column of integers with gaps is read as fractions, all of them whole."""
    if isinstance(values[0], list):
        return MULTI
    gaps = len(values) < rows
    if any(isinstance(value, float) and not (gaps and value.is_integer()) for value in values):
        return REGRESSION
    return SINGLE


def _present(values: Sequence[Any], own_names: list[str] | None) -> list[Any]:
    """The labels that occur, sorted.

    Raises:
        UserError: a list holds 0 or 1 for each label, where the labels that apply are expected.
    """
    parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
    found = {part for part in parts if not _missing(part, own_names)}
    if not own_names and found <= {0, 1} and any(_repeats(value) for value in values):
        raise UserError("the lists of labels hold 0 or 1 for each label; write the names of the labels that apply")
    return sorted(found, key=lambda value: (isinstance(value, str), value))


def _repeats(value: Any) -> bool:
    return isinstance(value, list) and len(set(value)) < len(value)


def _name(value: Any, own_names: list[str] | None) -> str:
    if own_names and isinstance(value, int):
        return own_names[value]
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
