"""Sequence classification: one label, several labels, or a number for a text or a pair of texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.suggest import did_you_mean
from finetune.config.task import Encoded, Facts, RowError, Task
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text", "text_pair"))
TEXTS = ("text", "sentence", "content", "review", "comment", "document", "question")
LABELS = ("label", "labels", "score", "category", "target", "class")


@dataclass(kw_only=True)
class SequenceClassification(Task):
    """A head over the pooled text. Labels are names; their ids are made once, from train."""

    model_class: ClassVar[str] = "transformers.AutoModelForSequenceClassification"
    peft_type: ClassVar[str] = "SEQ_CLS"
    roles: ClassVar[tuple[str, ...]] = ("text", "text_pair", "label")

    name: str = "sequence_classification"
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    """auto: names or integers are one label, lists several, fractions a number."""
    overlong: Literal["truncate", "drop", "error"] = "truncate"
    """What becomes of a row of more than `tokenizer.max_length` tokens; each is counted."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Columns, problem type and label names."""
        found = _columns(train.column_names, columns)
        values = [value for value in train[found["label"]] if not _missing(value)]
        if not values:
            raise UserError(f"column {found['label']} of train holds no label")
        problem = self.problem_type if self.problem_type != "auto" else _problem_type(values)
        labels = [] if problem == REGRESSION else _names(train, found["label"], values)
        if problem == SINGLE and len(labels) < 2:
            raise UserError(f"column {found['label']} of train holds one label only: {labels[0]}")
        return {"columns": found, "problem_type": problem, "labels": labels}

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoded:
        """Token ids and the label's id, ids or value."""
        from finetune.data import encoding

        columns, label = facts["columns"], _label_reader(rows, facts)

        def read(row: dict[str, Any], index: int) -> tuple[list[str], Any]:
            return _texts(row, columns), label(row[columns["label"]], index)

        def tokenize(items: Sequence[tuple[list[str], Any]], cut: int | None) -> list[dict[str, Any]]:
            sides = zip(*(texts for texts, _ in items), strict=True)
            encoded = tokenizer(*map(list, sides), truncation=cut is not None, max_length=cut, verbose=False)
            names = [name for name in encoded if name != "attention_mask"]
            return [
                {**{name: encoded[name][at] for name in names}, "labels": label} for at, (_, label) in enumerate(items)
            ]

        return encoding.encode(rows, read, tokenize, encoding.Limit(max_length, self.overlong))

    def model_kwargs(self, facts: Facts) -> dict[str, Any]:
        """Number, names and kind of the labels."""
        if facts["problem_type"] == REGRESSION:
            return {"num_labels": 1, "problem_type": REGRESSION}
        names = dict(enumerate(facts["labels"]))
        ids = {name: index for index, name in names.items()}
        return {"problem_type": facts["problem_type"], "id2label": names, "label2id": ids}

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts) -> None:
        """A decoder finds its last token by the pad token, so the two must agree."""
        model.config.pad_token_id = tokenizer.pad_token_id

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads to the longest row of a batch."""
        from transformers import DataCollatorWithPadding

        collator: Callable[..., dict[str, Any]] = DataCollatorWithPadding(tokenizer)
        return collator

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

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """The label with its confidence. An input is a text, a pair of texts, or a row with the trained columns."""
        import torch

        for item in inputs:
            texts = _texts(item, options.get("columns", {}))
            encoded = tokenizer(*texts, return_tensors="pt", truncation=True).to(model.device)
            with torch.no_grad():
                logits = model(**encoded).logits[0].float().cpu()
            yield {"input": item, **_answer(logits, model.config)}


def _columns(names: Sequence[str], given: dict[str, str]) -> dict[str, str]:
    """Role to column: as given, else by the names data sets use."""
    for role, column in given.items():
        if column not in names:
            hint = did_you_mean(column, names)
            raise UserError(f"dataset.columns.{role}={column}: the columns are {', '.join(names)}. {hint}".rstrip())
    pair = next((pair for pair in PAIRS if set(pair) <= set(names)), ())
    detected = dict(zip(("text", "text_pair"), pair, strict=False))
    if not pair:
        detected |= _first("text", TEXTS, names)
    detected |= _first("label", LABELS, names)
    if "text" in given:
        detected.pop("text_pair", None)
    for role in ("text", "label"):
        if role not in given | detected:
            raise UserError(f"no column for the {role} among {', '.join(names)}. Write dataset.columns.{role}=NAME")
    return detected | given


def _first(role: str, usual: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    found = next((name for name in usual if name in names), None)
    return {role: found} if found else {}


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _problem_type(values: Sequence[Any]) -> str:
    if isinstance(values[0], list):
        return MULTI
    return REGRESSION if any(isinstance(value, float) for value in values) else SINGLE


def _names(train: Dataset, column: str, values: Sequence[Any]) -> list[str]:
    """The label names: the data set's own where it has them, else what train holds, sorted."""
    feature = train.features[column]
    known = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    if known:
        return list(known)
    present = {part for value in values for part in (value if isinstance(value, list) else [value])}
    return [str(value) for value in sorted(present, key=lambda v: (isinstance(v, str), v))]


def _label_reader(rows: Dataset, facts: Facts) -> Callable[[Any, int], Any]:
    """From a raw label and its row's index to what the loss takes; a label that train has not is refused."""
    if facts["problem_type"] == REGRESSION:
        return _number
    feature = rows.features[facts["columns"]["label"]]
    own_names = getattr(getattr(feature, "feature", feature), "names", None)
    ids = {name: identifier for identifier, name in enumerate(facts["labels"])}

    def one(value: Any, index: int) -> int:
        if _missing(value):
            raise RowError("no label")
        name = own_names[value] if own_names and isinstance(value, int) else str(value)
        if name not in ids:
            raise UserError(f"row {index}: label {name!r} does not occur in train, which has {', '.join(ids)}")
        return ids[name]

    def several(value: Any, index: int) -> list[float]:
        if value is None:
            raise RowError("no label")
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


def _texts(item: Any, columns: dict[str, str]) -> list[str]:
    """The text, or the pair of texts, of a row or of what a user wrote."""
    if isinstance(item, str):
        return [item]
    if not isinstance(item, dict):
        return [str(part) for part in item]
    texts = [item[column] for role in ("text", "text_pair") if (column := columns.get(role, role)) in item]
    written = [text for text in texts if isinstance(text, str) and text.strip()]
    if not texts or len(written) < len(texts):
        raise RowError("no text")
    return written


def _answer(logits: torch.Tensor, config: Any) -> dict[str, Any]:
    """What a person reads off the logits of one text."""
    if config.problem_type == REGRESSION:
        return {"value": round(float(logits[0]), 4)}
    if config.problem_type == MULTI:
        scores = logits.sigmoid().tolist()
        return {"labels": {config.id2label[i]: round(p, 4) for i, p in enumerate(scores) if p > 0.5}}
    best = int(logits.argmax())
    return {"label": config.id2label[best], "confidence": round(float(logits.softmax(-1)[best]), 4)}
