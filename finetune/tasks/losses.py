"""Losses of sentence-transformers by their own names: which layouts of rows each learns, and what options it takes.

Knows no model and no row. Losses that need a second model, or that have weights of their own which no saved model
would hold, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator

from finetune.config import options
from finetune.config.suggest import did_you_mean
from finetune.errors import UserError


@dataclass(frozen=True)
class Family:
    """The losses of one kind of model, and what is measured of it."""

    module: str
    """That holds the losses."""
    layouts: dict[str, tuple[str, ...]]
    """Layout to the roles that its rows fill."""
    fits: dict[str, tuple[str, ...]]
    """Loss to the layouts it learns; the first loss of a layout is its default."""
    between: str
    """The loss that takes scores from 0 to 1."""
    metrics: dict[str, tuple[str, ...]]
    """Layout to what is measured."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role of a layout, once."""
        return tuple(dict.fromkeys(role for roles in self.layouts.values() for role in roles))

    def path(self, name: str | None, layout: str) -> str:
        """The path of the loss for a layout, the default where none is named.

        Raises:
            UserError: there is no such loss, or it learns from other rows.
        """
        return f"{self.module}.{_chosen(name, layout, self.fits)}"


EMBEDDING = Family(
    "sentence_transformers.sentence_transformer.losses",
    layouts={
        "triplet": ("anchor", "positive", "negative"),
        "scored": ("sentence1", "sentence2", "score"),
        "labelled": ("sentence1", "sentence2", "label"),
        "pair": ("anchor", "positive"),
    },
    fits={
        "MultipleNegativesRankingLoss": ("pair", "triplet"),
        "CachedMultipleNegativesRankingLoss": ("pair", "triplet"),
        "MultipleNegativesSymmetricRankingLoss": ("pair", "triplet"),
        "CachedMultipleNegativesSymmetricRankingLoss": ("pair", "triplet"),
        "MegaBatchMarginLoss": ("pair",),
        "TripletLoss": ("triplet",),
        "CoSENTLoss": ("scored",),
        "AnglELoss": ("scored",),
        "CosineSimilarityLoss": ("scored",),
        "OnlineContrastiveLoss": ("labelled",),
        "ContrastiveLoss": ("labelled",),
    },
    between="CosineSimilarityLoss",
    metrics={
        "pair": ("mrr@10", "recall@1", "recall@10"),
        "triplet": ("pairwise_accuracy", "mrr@10", "recall@1", "recall@10"),
        "scored": ("spearman", "pearson"),
        "labelled": ("average_precision", "spearman"),
    },
)
JUDGED, CONTRASTED = ("labelled", "scored", "candidates"), ("pair", "triplet")
"""Layouts of rows that say of each document what it is worth, and of those that name the right one."""
RERANKING = Family(
    "sentence_transformers.cross_encoder.losses",
    layouts={
        "candidates": ("query", "documents", "labels"),
        "triplet": ("query", "positive", "negative"),
        "scored": ("query", "document", "score"),
        "labelled": ("query", "document", "label"),
        "pair": ("query", "positive"),
    },
    fits={
        "BinaryCrossEntropyLoss": JUDGED,
        "MSELoss": JUDGED,
        "MultipleNegativesRankingLoss": CONTRASTED,
        "CachedMultipleNegativesRankingLoss": CONTRASTED,
        "LambdaLoss": ("candidates",),
        "ListNetLoss": ("candidates",),
        "ListMLELoss": ("candidates",),
        "PListMLELoss": ("candidates",),
        "RankNetLoss": ("candidates",),
        "ADRMSELoss": ("candidates",),
    },
    between="BinaryCrossEntropyLoss",
    metrics={
        "candidates": ("ndcg@10", "mrr@10"),
        "labelled": ("ndcg@10", "mrr@10"),
        "scored": ("spearman", "pearson"),
        "alone": ("average_precision", "spearman"),
        "triplet": ("pairwise_accuracy",),
        "pair": (),
    },
)
NAMED = {
    "similarity_fct": ("sentence_transformers.util.similarity", r"(?!_).*_(sim|score)"),
    "distance_metric": ("{loss}", r"COSINE\w*|EUCLIDEAN\w*|MANHATTAN|(cosine|eucledian|euclidean)_distance"),
    "activation_fn": ("torch.nn", r"Identity|Sigmoid|Tanh|ReLU|Softplus"),
}
"""Options that take a function: where those of the library lie that may be named, and the names."""


def _chosen(name: str | None, layout: str, fits: dict[str, tuple[str, ...]]) -> str:
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


def at_lengths(loss: Callable[[Any], Any], lengths: Iterable[int]) -> Callable[[Any], Any]:
    """The same of the beginnings of vectors, and of whole ones."""

    def made(model: Any) -> Any:
        dims = sorted({*lengths, model.get_embedding_dimension()}, reverse=True)
        return options.resolve(f"{EMBEDDING.module}.MatryoshkaLoss")(model, loss(model), dims)

    return made


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
