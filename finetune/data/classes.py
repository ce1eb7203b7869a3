"""Classes and numbers that rows are labelled with: their kind, their names, and the ids that the names stand for.

Cheap to import. Knows no texts and no tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from finetune.config.task import IGNORED, Facts, RowError
from finetune.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
SECRET = -1
"""What data sets of the Hub write beside the classes 0, 1, … for a label that is kept secret."""


def describe(train: Dataset, column: str, wanted: str) -> Facts:
    """The kind of the labels of a column, and their names.

    Args:
        wanted: the kind as the user wrote it, or auto.
    Raises:
        UserError: there is nothing to tell apart.
    """
    own_names = _own_names(train, column)
    values = [value for value in train[column] if not _absent(value)]
    problem = wanted if wanted != "auto" else _problem_type(values, len(train))
    if values and problem == REGRESSION:
        return {"problem_type": problem, "labels": []}
    present = _present(values, own_names)
    if not present:
        raise UserError(f"column {column} of train holds no label")
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
    return united(facts)


def united(facts: Sequence[Facts]) -> list[Facts]:
    """The facts of several sources with one set of names.

    Raises:
        UserError: the labels of one source are numbers, and those of another names.
    """
    numbered = [found["labels"] for found in facts if found["labels"] and all(map(_is_number, found["labels"]))]
    named = [found["labels"] for found in facts if found["labels"] and not any(map(_is_number, found["labels"]))]
    if numbered and named:
        raise UserError(
            f"the labels of one source are the numbers {', '.join(numbered[0])}, and those of another are "
            f"{', '.join(named[0])}. Write the names in place of the numbers"
        )
    names = list(dict.fromkeys(name for found in facts for name in found["labels"]))
    return [{**found, "labels": names} for found in facts]


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


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
    return [_name(label, None) for label in _classes({label for label in found if not _missing(label)})]


def namer(rows: Dataset, column: str, labels: Sequence[str]) -> Callable[[Any], str | None]:
    """From a label of a column to its name, None for one that is missing.

    Args:
        labels: the names that train has.
    """
    own = _own_names(rows, column)

    def name(label: Any) -> str | None:
        return None if _missing(label, own) or _is_secret(label, labels) else _name(label, own)

    return name


def reader(rows: Dataset, facts: Facts) -> Callable[[Any, int], Any]:
    """From a raw label and its row's index to what the loss takes; a label that train has not is refused."""
    if facts["problem_type"] == REGRESSION:
        return _number
    own_names = _own_names(rows, facts["columns"]["label"])
    ids = {name: identifier for identifier, name in enumerate(facts["labels"])}

    def one(value: Any, index: int) -> int:
        _check_there(value, own_names, facts["labels"])
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


def _check_there(value: Any, own_names: list[str] | None, labels: Sequence[str]) -> None:
    """Drop a row without a label."""
    if _missing(value, own_names):
        raise RowError("no label")
    if _is_secret(value, labels):
        raise RowError(f"no label: -1 beside 0 to {len(labels) - 1}; where it is a class, write names of classes")


def _number(value: Any, index: int) -> float:
    if _absent(value):
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


def _absent(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _missing(value: Any, own_names: list[str] | None = None) -> bool:
    """Whether there is no label: nothing, what losses ignore, or an id below zero in a data set with names."""
    return _absent(value) or value == IGNORED or bool(own_names and isinstance(value, int) and value < 0)


def _is_secret(value: Any, labels: Sequence[str]) -> bool:
    """Whether a label is -1, and those of train are 0, 1, … without names."""
    return value == SECRET and set(labels) == set(map(str, range(len(labels))))


def _problem_type(values: Sequence[Any], rows: int) -> str:
    """By the values that are there; a column of integers with gaps is read as fractions, all of them whole."""
    if values and isinstance(values[0], list):
        return MULTI
    gaps = len(values) < rows
    if any(isinstance(value, float) and not (gaps and value.is_integer()) for value in values):
        return REGRESSION
    return SINGLE


def _present(values: Sequence[Any], own_names: list[str] | None) -> list[Any]:
    """The labels that occur, sorted.

    Raises:
        UserError: a list holds 0 or 1 for each label, or may do, where the labels that apply are expected.
    """
    lists = [[part for part in _parts(value) if not _missing(part, own_names)] for value in values]
    found = {part for each in lists for part in each}
    if own_names:
        return sorted(found, key=_order)
    if found <= {0, 1}:
        _check_flags(lists)
    return _classes(found)


def _parts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_flags(lists: Sequence[list[Any]]) -> None:
    """Refuse lists of 0 and 1 that are one for each label, or as well may be."""
    if any(len(set(each)) < len(each) for each in lists):
        raise UserError("the lists of labels hold 0 or 1 for each label; write the names of the labels that apply")
    if lists and all(set(each) == {0, 1} for each in lists):
        raise UserError(
            f"each list of labels is a 0 and a 1, such as {lists[0]}: either it says of each label whether it "
            "applies, or that the labels 0 and 1 both do. Write the names of the labels that apply, as texts"
        )


def _classes(found: set[Any]) -> list[Any]:
    """Labels without names of their own, sorted; -1 beside 0, 1, … is none."""
    ordered = sorted(found, key=_order)
    others = [label for label in ordered if label != SECRET]
    return others if others == list(range(len(others))) else ordered


def _order(label: Any) -> tuple[bool, Any]:
    return isinstance(label, str), label


def _name(value: Any, own_names: list[str] | None) -> str:
    """An id that the data set has no name for is its own."""
    if own_names and isinstance(value, int) and 0 <= value < len(own_names):
        return own_names[value]
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
