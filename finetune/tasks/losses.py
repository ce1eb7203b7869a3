"""Losses of sentence-transformers by their own names: which layouts of rows each learns, and what options it takes.

Knows no model and no row. Losses that need a second model, or that have weights of their own which no saved model
would hold, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from jsonschema import Draft202012Validator

from finetune.config import options
from finetune.config.suggest import did_you_mean
from finetune.errors import UserError

Fits = Mapping[str, tuple[str, ...]]
"""Loss to the layouts it learns; the first loss of a layout is its default."""

EMBEDDING = "sentence_transformers.sentence_transformer.losses"
CROSS_ENCODER = "sentence_transformers.cross_encoder.losses"
NAMED = {
    "similarity_fct": ("sentence_transformers.util.similarity", r"(?!_).*_(sim|score)"),
    "distance_metric": ("{loss}", r"COSINE\w*|EUCLIDEAN\w*|MANHATTAN|(cosine|eucledian|euclidean)_distance"),
    "activation_fn": ("torch.nn", r"Identity|Sigmoid|Tanh|ReLU|Softplus"),
}
"""Options that take a function: where those of the library lie that may be named, and the names."""


def chosen(name: str | None, layout: str, fits: Fits) -> str:
    """The loss for a layout, the default where none is named.

    Raises:
        UserError: there is no such loss, or it learns from other rows.
    """
    able = [loss for loss, layouts in fits.items() if layout in layouts]
    if name is None:
        return able[0]
    if name not in fits:
        raise UserError(f"task.loss={name} is not a loss that is trained here. {_listed(name, able, layout)}")
    if name not in able:
        wanted = " or ".join(fits[name])
        raise UserError(f"task.loss={name} learns from rows that are {wanted}. {_listed('', able, layout)}")
    return name


def _listed(name: str, able: list[str], layout: str) -> str:
    return f"{did_you_mean(name, able)} Of rows that are {layout} learn: {', '.join(able)}".lstrip()


def check(path: str, given: dict[str, Any]) -> None:
    """Refuse options that the loss does not take.

    Raises:
        UserError: with what it takes.
    """
    known, name = options.of(path), path.rpartition(".")[2]
    taken = {key: option for key, option in known.items() if key in NAMED or option.schema}
    for key, value in given.items():
        where = f"task.loss_options.{key}"
        if key not in taken:
            hint = did_you_mean(key, taken) or f"Options: {', '.join(taken) or 'none'}"
            raise UserError(f"{where}: {name} takes no such option from a recipe. {hint}")
        if key in NAMED:
            _function(path, key, value)
        elif error := next(Draft202012Validator(taken[key].schema).iter_errors(value), None):
            raise UserError(f"{where}={value!r}: {name} refuses it: {error.message}")


def build(path: str, given: dict[str, Any]) -> Callable[[Any], Any]:
    """From a model to its loss."""
    read = {key: _function(path, key, value) if key in NAMED else value for key, value in given.items()}
    return lambda model: options.resolve(path)(model, **read)


def _function(path: str, key: str, value: Any) -> Any:
    """A function of the library, by its name."""
    where, pattern = NAMED[key]
    owners = _distances(path) if where == "{loss}" else [__import__(where, fromlist=["_"])]
    names = {name: owner for owner in owners for name in vars(owner) if re.fullmatch(pattern, name)}
    if value not in names:
        hint = did_you_mean(str(value), names) or f"Names: {', '.join(names)}"
        raise UserError(f"task.loss_options.{key}={value}: no such function. {hint}")
    found = getattr(names[value], value)
    return found() if where == "torch.nn" else found


def _distances(path: str) -> list[Any]:
    """The classes beside a loss that hold its distances."""
    module = __import__(options.resolve(path).__module__, fromlist=["_"])
    return [each for name, each in vars(module).items() if re.search(r"Distance(Metric|Function)$", name)]
