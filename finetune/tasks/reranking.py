"""Reranking: a score for a query and a document read together, by which documents are put in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config.task import Encoder, Facts, RowError
from finetune.data import layouts
from finetune.errors import UserError
from finetune.tasks.texts import Texts

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POINTWISE, CONTRASTED = ("labelled", "scored", "candidates"), ("pair", "triplet")
SCORES = {
    "scored": ("spearman", "pearson"),
    "alone": ("average_precision", "spearman"),
    "pair": (),
    "triplet": ("pairwise_accuracy",),
    **dict.fromkeys(("candidates", "labelled"), ("ndcg@10", "mrr@10")),
}


@dataclass(kw_only=True)
class Reranking(Texts):
    """A cross encoder of sentence-transformers. Rows hold a document each, or all candidates of a query."""

    model_class: ClassVar[str] = "transformers.AutoModelForSequenceClassification"
    trainer_class: ClassVar[str] = "sentence_transformers.cross_encoder.CrossEncoderTrainer"
    arguments_class: ClassVar[str] = "sentence_transformers.cross_encoder.CrossEncoderTrainingArguments"
    peft_type: ClassVar[str] = "SEQ_CLS"
    opened_by: ClassVar[str] = "sentence_transformers.CrossEncoder"
    losses_in: ClassVar[str] = "sentence_transformers.cross_encoder.losses"
    layouts: ClassVar[dict[str, tuple[str, ...]]] = {
        "candidates": ("query", "documents", "labels"),
        "triplet": ("query", "positive", "negative"),
        "scored": ("query", "document", "score"),
        "labelled": ("query", "document", "label"),
        "pair": ("query", "positive"),
    }
    fits: ClassVar[dict[str, tuple[str, ...]]] = {
        "BinaryCrossEntropyLoss": POINTWISE,
        "MSELoss": POINTWISE,
        "MultipleNegativesRankingLoss": CONTRASTED,
        "CachedMultipleNegativesRankingLoss": CONTRASTED,
        **dict.fromkeys(("LambdaLoss", "ListNetLoss", "ListMLELoss", "PListMLELoss", "RankNetLoss", "ADRMSELoss"),
                        ("candidates",)),
    }  # fmt: skip
    between: ClassVar[tuple[str, ...]] = ("BinaryCrossEntropyLoss",)
    roles: ClassVar[tuple[str, ...]] = (
        "query", "document", "documents", "positive", "negative", "score", "label", "labels",
    )  # fmt: skip

    name: str = "reranking"

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Besides, whether a query has several candidates, which can be ranked."""
        facts = super().describe(train, columns)
        is_alone = facts["layout"] == "labelled" and len(set(train[facts["columns"]["query"]])) == len(train)
        return {**facts, "grouped": not is_alone}

    def read(self, row: dict[str, Any], index: int, facts: Facts) -> tuple[list[str], Any]:
        """The query and its documents, and what is known of them."""
        if facts["layout"] != "candidates":
            return super().read(row, index, facts)
        column = facts["columns"]
        documents, labels = (layouts.value(row, column[role]) for role in ("documents", "labels"))
        if not isinstance(documents, list) or not isinstance(labels, list) or len(documents) != len(labels):
            raise UserError(f"row {index}: {column['documents']} and {column['labels']} are not lists of one length")
        if not documents:
            raise RowError("no candidates")
        texts = [layouts.text(each, column["documents"]) for each in documents]
        known = [layouts.number(each, column["labels"], index) for each in labels]
        if self._loss("candidates").endswith("BinaryCrossEntropyLoss"):
            known = [layouts.label(each, column["labels"], index) for each in labels]
        return [self.text(row, "query", column["query"]), *texts], known

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """The tokens of query and documents end to end; special tokens come when they are paired."""
        return self.encoded(rows, tokenizer, facts, max_length, special=False)

    def model_kwargs(self, facts: Facts) -> dict[str, Any]:
        """One score a pair."""
        return {"num_labels": 1}

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts) -> None:
        """A decoder finds its last token by the pad token, so the two must agree."""
        model.config.pad_token_id = tokenizer.pad_token_id

    def around(self, model: Any, source: Any, tokenizer: PreTrainedTokenizerBase | None, max_length: int) -> Any:
        """As a cross encoder."""
        from finetune.models import modules

        return self.settled(modules.scorer(model, source), tokenizer, max_length)

    def loss_of(self, facts: Facts) -> Callable[[Any], Any]:
        """As chosen, given tokens in the order it expects texts."""
        from finetune.models.pairs import OfTokens

        layout, plain = facts["layout"], super().loss_of(facts)
        one_by_one = self.fits[self._loss(layout).rpartition(".")[2]] == POINTWISE
        return lambda model: OfTokens(plain(model), one_by_one, contrasted=layout in CONTRASTED)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """(rows, tokens) for queries, (rows, candidates, tokens) for documents."""
        from finetune.data.joined import candidates_padded

        return candidates_padded

    def forward(self, model: Any, batch: dict[str, torch.Tensor], facts: Facts) -> Any:
        """The loss, and as logits a score for each pair, (pairs,)."""
        from finetune.models.pairs import scored

        return scored(model, self.loss_of(facts)(model), batch)

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """For each pair its score, and what is known of it; a number for its query."""
        import torch

        from finetune.data.joined import PAD
        from finetune.tasks.rankings import fingerprints

        there = batch["documents"][..., 0] != PAD
        first = torch.zeros_like(there, dtype=torch.float32)
        first[:, 0] = 1.0  # without labels, the first of a row is the right one
        known = batch.get("label", first)[there]
        queries = fingerprints(batch["query"], (batch["query"] != PAD).long())[:, None].expand_as(there)[there]
        return torch.stack([logits.float(), known], -1), queries

    def judged(self, predictions: Any, references: Any, facts: Facts) -> tuple[Any, Any]:
        """Scores beside what was expected; or each query's documents, ranked."""
        from finetune.tasks.rankings import of_scores

        if facts["layout"] == "scored" or not facts["grouped"]:
            return predictions[:, 0], predictions[:, 1]
        return of_scores(predictions[:, 0], predictions[:, 1], references)

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Correlation with scores, or how far up the right documents are; of positives alone, the loss."""
        return SCORES[facts["layout"] if facts["grouped"] else "alone"]

    def score(self, facts: Facts) -> tuple[str, bool]:
        """The loss where nothing else is measured."""
        return super().score(facts) if self.metrics(facts) else ("loss", False)

    def predict(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, inputs: Sequence[Any], options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """The score of a pair; of a row with a query and a list of documents, the documents in their order."""
        columns = {"query": "query", "documents": "documents", **options.get("columns", {})}
        for number, item in enumerate(inputs):
            documents = item.get(columns["documents"], item.get("documents")) if isinstance(item, dict) else None
            if documents is None:
                (score,) = model.predict([tuple(self.pair(item, number, columns))], show_progress_bar=False)
                yield {"input": item, "score": round(float(score), 4)}
                continue
            if (
                not isinstance(documents, list)
                or not documents
                or not all(isinstance(each, str) for each in documents)
            ):
                raise UserError(f"input {number}: {columns['documents']} is {documents!r}, and no list of texts")
            (query,) = self.asked({"query": item.get(columns["query"])}, number, {"query": "query"})
            ranked = model.rank(query, documents, return_documents=True, show_progress_bar=False)
            found = [{"document": each["text"], "score": round(float(each["score"]), 4)} for each in ranked]
            yield {"input": item, "ranking": found}
