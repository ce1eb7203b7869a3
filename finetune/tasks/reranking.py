"""Reranking: a score for a query and a document read together, by which documents are put in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config.task import Facts
from finetune.data import layouts
from finetune.errors import UserError
from finetune.tasks import losses
from finetune.tasks.texts import Texts

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DOCUMENTS = ("documents", "document", "positive")
"""The roles of documents; a layout has one, whose prompt is put before every document."""


@dataclass(kw_only=True)
class Reranking(Texts):
    """A cross encoder of sentence-transformers. Rows hold a document each, or all candidates of a query."""

    model_class: ClassVar[str] = "transformers.AutoModelForSequenceClassification"
    trainer_class: ClassVar[str] = "sentence_transformers.cross_encoder.CrossEncoderTrainer"
    arguments_class: ClassVar[str] = "sentence_transformers.cross_encoder.CrossEncoderTrainingArguments"
    peft_type: ClassVar[str] = "SEQ_CLS"
    opened_by: ClassVar[str] = "sentence_transformers.CrossEncoder"
    family: ClassVar[losses.Family] = losses.RERANKING
    roles: ClassVar[tuple[str, ...]] = losses.RERANKING.roles
    special: ClassVar[bool] = False

    name: str = "reranking"

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Besides, whether a query has several candidates, which can be ranked."""
        facts = super().describe(train, columns)
        if facts["layout"] == "triplet" and len({self.prompts.get(role, "") for role in ("positive", "negative")}) > 1:
            raise UserError(
                f"task.prompts={self.prompts}: positive and negative are both documents, and prompts that differ "
                "would tell them apart. Write the same for both"
            )
        is_alone = facts["layout"] == "labelled" and len(set(train[facts["columns"]["query"]])) == len(train)
        return {**facts, "grouped": not is_alone}

    def read(self, row: dict[str, Any], index: int, facts: Facts) -> tuple[list[str], Any]:
        """The query and its documents, and what is known of them."""
        if facts["layout"] != "candidates":
            return super().read(row, index, facts)
        query, documents, labels = (facts["columns"][role] for role in ("query", "documents", "labels"))
        texts, known = layouts.candidates(row, documents, labels, index)
        if self.family.path(self.loss, "candidates").endswith(self.family.between):
            known = [layouts.label(each, labels, index) for each in known]
        prompt = self.prompts.get("documents", "")
        return [self.text(row, "query", query), *(prompt + each for each in texts)], known

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
        judges = self.family.fits[self.family.path(self.loss, layout).rpartition(".")[2]]
        return lambda model: OfTokens(plain(model), judges == losses.JUDGED, contrasted=layout in losses.CONTRASTED)

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
        from finetune.tasks.rankings import of_batch

        return of_batch(logits, batch)

    def judged(self, predictions: Any, references: Any, facts: Facts) -> tuple[Any, Any]:
        """Scores beside what was expected; or each query's documents, ranked."""
        from finetune.tasks.rankings import of_scores

        if facts["layout"] == "scored" or not facts["grouped"]:
            return predictions[:, 0], predictions[:, 1]
        return of_scores(predictions[:, 0], predictions[:, 1], references)

    def predict(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, inputs: Sequence[Any], options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """The score of a pair; of a row with a query and a list of documents, the documents in their order."""
        columns = {"query": "query", **options.get("columns", {})}
        role = next((each for each in DOCUMENTS if each in columns), "documents")
        pair = {"query": columns["query"], role: columns.get(role, role)}
        listed = columns.get("documents", "documents")
        for number, item in enumerate(inputs):
            documents = item.get(listed, item.get("documents")) if isinstance(item, dict) else None
            if documents is None:
                (score,) = model.predict([tuple(self.pair(item, number, pair))], show_progress_bar=False)
                yield {"input": item, "score": round(float(score), 4)}
                continue
            if not isinstance(documents, list) or not documents or any(type(each) is not str for each in documents):
                raise UserError(f"input {number}: {listed} is {documents!r}, and no list of texts")
            (query,) = self.asked(item, number, {"query": columns["query"]})
            prompted = [self.prompts.get(role, "") + each for each in documents]
            ranked = model.rank(query, prompted, show_progress_bar=False)
            found = [{"document": documents[at["corpus_id"]], "score": round(float(at["score"]), 4)} for at in ranked]
            yield {"input": item, "ranking": found}
