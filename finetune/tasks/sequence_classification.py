"""Sequence classification: one label, several labels, or a number for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import Encoder, Facts, RowError
from finetune.data import classes
from finetune.data.classes import MULTI, REGRESSION
from finetune.errors import UserError
from finetune.tasks.classification import LABELS, Classification, answer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text", "text_pair"),
    ("question", "sentence"), ("question", "passage"),
)  # fmt: skip
TEXTS = ("text", "sentence", "content", "review", "comment", "document", "question")


@dataclass(kw_only=True)
class SequenceClassification(Classification):
    """A head over the pooled text."""

    model_class: ClassVar[str] = "transformers.AutoModelForSequenceClassification"
    peft_type: ClassVar[str] = "SEQ_CLS"
    roles: ClassVar[tuple[str, ...]] = ("text", "text_pair", "label")
    unread: ClassVar[dict[str, str]] = {
        "tokenizer.chat_template": "texts are classified as they are, not rendered",
        "evaluation.generation": "a classifier writes nothing",
    }

    name: str = "sequence_classification"
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    """auto: names or integers are one label, lists several, fractions a number."""
    overlong: Literal["truncate", "drop", "error"] = "truncate"
    """What becomes of a row of more than `tokenizer.max_length` tokens; each is counted."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Columns, problem type and label names."""
        from finetune.data.columns import check

        check(columns, train.column_names)
        found = _columns(train.column_names, columns)
        return {"columns": found, **classes.describe(train, found["label"], self.problem_type)}

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """Token ids and the label's id, ids or value."""
        from finetune.data.columns import check

        columns = facts["columns"]
        check(columns, rows.column_names)
        label = classes.reader(rows, facts)
        sides = [columns[role] for role in ("text", "text_pair") if role in columns]

        def read(row: dict[str, Any], index: int) -> tuple[list[str], Any]:
            return _written(row[column] for column in sides), label(row[columns["label"]], index)

        def tokenize(items: Sequence[tuple[list[str], Any]], cut: int | None) -> list[dict[str, Any]]:
            texts = zip(*(texts for texts, _ in items), strict=True)
            encoded = tokenizer(*map(list, texts), truncation=cut is not None, max_length=cut, verbose=False)
            names = [name for name in encoded if name != "attention_mask"]
            return [
                {**{name: encoded[name][at] for name in names}, "labels": label} for at, (_, label) in enumerate(items)
            ]

        cut = max_length if self.overlong == "truncate" else None
        return Encoder(read, tokenize, overlong=self.overlong, cut=cut)

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts) -> None:
        """A decoder finds its last token by the pad token, so the two must agree."""
        model.config.pad_token_id = tokenizer.pad_token_id

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads to the longest row of a batch."""
        from transformers import DataCollatorWithPadding

        collator: Callable[..., dict[str, Any]] = DataCollatorWithPadding(tokenizer)
        return collator

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """The label with its confidence. An input is a text, a pair of texts, or a row with the trained columns."""
        import torch

        from finetune.models.tokenizer import max_length_of

        cut = options.get("max_length") or max_length_of(tokenizer, model.config)
        for number, item in enumerate(inputs):
            texts = _texts(item, number, options.get("columns", {}))
            encoded = tokenizer(*texts, return_tensors="pt", truncation=True, max_length=cut).to(model.device)
            with torch.no_grad():
                logits = model(**encoded).logits[0].float().cpu()
            yield {"input": item, **answer(logits, model.config)}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Texts with labels of the kind asked for."""
        texts = {column: "a fine film" for role, column in ({"text": "text"} | columns).items() if role != "label"}
        labels = {MULTI: ([0], [0, 1]), REGRESSION: (0.2, 0.9)}.get(self.problem_type, ("no", "yes"))
        return [{**texts, columns.get("label", "label"): label} for label in labels]


def _columns(names: Sequence[str], given: dict[str, str]) -> dict[str, str]:
    """Role to column: as given, else by the names data sets use."""
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


def _written(texts: Iterable[Any]) -> list[str]:
    """The texts, if each says something."""
    found = list(texts)
    if not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise RowError("no text")
    return found


def _texts(item: Any, number: int, columns: dict[str, str]) -> list[str]:
    """The text, or the pair of texts, of what a user wrote."""
    if isinstance(item, dict):
        trained = [columns[role] for role in ("text", "text_pair") if role in columns]
        names = trained if trained and set(trained) <= set(item) else ("text", "text_pair")
        item = [item[name] for name in names if name in item]
    texts = [item] if isinstance(item, str) else item
    if not isinstance(texts, list | tuple) or len(texts) > 2:
        raise UserError(f"input {number}: {item!r} is not a text, a pair of texts, or a row with the trained columns")
    try:
        return _written(texts)
    except RowError as error:
        raise UserError(f"input {number}: {error}") from None
