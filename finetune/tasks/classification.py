"""What classifiers share, whatever they look at: labels by name, their head, their scores. No task by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.config.task import Brought, Facts, Task
from finetune.data import classes
from finetune.data.classes import MULTI, REGRESSION, SINGLE

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

LABELS = ("label", "labels", "score", "category", "target", "class")
FEW = 5
"""Classes that the right one is looked for among, where there are more."""


@dataclass(kw_only=True)
class Classification(Task):
    """Labels are names; their ids are made once, from train."""

    def join(self, facts: Sequence[Facts]) -> list[Facts]:
        """The labels of all sources, in one order."""
        return classes.join(facts)

    def settle(self, facts: Facts, tokenizer: PreTrainedTokenizerBase, brought: Brought) -> Facts:
        """Labels in the order of the model's own head, where it has names for them."""
        return {**facts, "labels": classes.agreed(facts["labels"], brought.labels) if facts["labels"] else []}

    def model_kwargs(self, facts: Facts) -> dict[str, Any]:
        """Number, names and kind of the labels."""
        if facts["problem_type"] == REGRESSION:
            return {"num_labels": 1, "problem_type": REGRESSION}
        names = dict(enumerate(facts["labels"]))
        ids = {name: index for index, name in names.items()}
        return {"problem_type": facts["problem_type"], "id2label": names, "label2id": ids}

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Label ids, 0/1 for each label, or the value, as the labels of the batch are."""
        labels = batch["labels"]
        if labels.is_floating_point():
            return (logits.squeeze(-1), labels) if labels.ndim == 1 else ((logits > 0).long(), labels.long())
        return logits.argmax(-1), labels

    def metrics(self, facts: Facts) -> Sequence[str]:
        """By the kind of label."""
        return {
            SINGLE: ("accuracy", "f1", "precision", "recall", "matthews_correlation"),
            MULTI: ("f1_micro", "f1", "accuracy"),
            REGRESSION: ("pearson", "spearman", "mse", "mae"),
        }[facts["problem_type"]]


def answer(logits: torch.Tensor, config: Any) -> dict[str, Any]:
    """What a person reads off the logits of one input."""
    if config.problem_type == REGRESSION:
        return {"value": round(float(logits[0]), 4)}
    if config.problem_type == MULTI:
        scores = logits.sigmoid().tolist()
        return {"labels": {config.id2label[i]: round(p, 4) for i, p in enumerate(scores) if p > 0.5}}
    best = int(logits.argmax())
    return {"label": config.id2label[best], "confidence": round(float(logits.softmax(-1)[best]), 4)}


def among_few(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Whether the right class is among the five likeliest, where there are more than five."""
    if labels.ndim != 1 or labels.is_floating_point() or logits.shape[-1] <= FEW:
        return {}
    likeliest = logits.topk(FEW).indices
    return {f"top_{FEW}_accuracy": (likeliest == labels[:, None]).any(-1)}
