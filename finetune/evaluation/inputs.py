"""What a metric may be given, read into arrays or refused with what was found."""

from __future__ import annotations

from typing import Any

import numpy as np

from finetune.errors import UserError
from finetune.evaluation.scores import Array


def check_paired(predictions: Any, references: Any) -> None:
    """One entry an example on both sides.

    Raises:
        UserError: the sides differ in length, are empty, or are one string.
    """
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


def labels(side: str, values: Any) -> Array:
    """Class ids, (n,), or 0/1 labels, (n, labels), as integers.

    Raises:
        UserError: they are something else.
    """
    array = _array(side, values)
    if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind not in "biuf":
        raise UserError(f"The {side} must be class ids, or rows of 0/1 labels. Got {_described(array)}.")
    if not (np.isfinite(array) & (array == np.floor(array))).all():
        raise UserError(f"The {side} must be class ids. Got fractions: take the argmax, or a threshold, first.")
    if array.ndim == 2 and not np.isin(array, (0, 1)).all():
        raise UserError(f"The {side} have two dimensions, so every entry must be 0 or 1: label given or not.")
    return array.astype(np.int64)


def numbers(side: str, values: Any) -> Array:
    """Finite numbers, (n,).

    Raises:
        UserError: they are something else.
    """
    array = _array(side, values)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise UserError(f"The {side} must be one number an example. Got {_described(array)}.")
    if not np.isfinite(array).all():
        raise UserError(f"The {side} hold nan or infinity, first at {int(np.argmin(np.isfinite(array)))}.")
    return array.astype(np.float64)


def texts(side: str, values: Any) -> Array:
    """Strings, (n,), without the spaces at their ends.

    Raises:
        UserError: they are something else.
    """
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"The {side} must be strings.")
    return np.array([value.strip() for value in values], dtype=object)


def answers(side: str, values: Any) -> Array:
    """Predictions as strings, (n,), without the spaces at their ends; references as lists of them, (n,).

    A reference is the text that is right, or a list of several that are.

    Raises:
        UserError: they are something else.
    """
    if side == "predictions":
        return texts(side, values)
    found = np.empty(len(values), dtype=object)
    for at, value in enumerate(values):
        right = [value] if isinstance(value, str) else list(value)
        if not right:
            raise UserError(f"The {side} hold no text that is right, first at {at}.")
        found[at] = list(texts(side, right))
    return found


def sequences(side: str, values: Any) -> Array:
    """A list of tags an example, (n,).

    Raises:
        UserError: they are something else.
    """
    found = np.empty(len(values), dtype=object)
    for at, value in enumerate(values):
        if isinstance(value, str) or not all(isinstance(tag, str) for tag in value):
            raise UserError(f"The {side} must be a list of tags an example.")
        found[at] = list(value)
    return found


def _described(array: Array) -> str:
    return f"{array.dtype.name} of shape {array.shape}"
