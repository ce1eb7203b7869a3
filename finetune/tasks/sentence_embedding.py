"""Sentence embedding: a vector for each text, near to those of texts that belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import Encoder, Facts
from finetune.config.types import Positive, Switch
from finetune.errors import UserError
from finetune.tasks.texts import Texts

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

POOLING = Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
SCORES = {
    "pair": ("mrr@10", "recall@1", "recall@10"),
    "triplet": ("pairwise_accuracy", "mrr@10", "recall@1", "recall@10"),
    "scored": ("spearman", "pearson"),
    "labelled": ("average_precision", "spearman"),
}


@dataclass(kw_only=True)
class SentenceEmbedding(Texts):
    """A sentence-transformers model. What a loss compares inside a batch, it compares inside a micro-batch."""

    model_class: ClassVar[str] = "transformers.AutoModel"
    trainer_class: ClassVar[str] = "sentence_transformers.SentenceTransformerTrainer"
    arguments_class: ClassVar[str] = "sentence_transformers.SentenceTransformerTrainingArguments"
    peft_type: ClassVar[str] = "FEATURE_EXTRACTION"
    opened_by: ClassVar[str] = "sentence_transformers.SentenceTransformer"
    losses_in: ClassVar[str] = "sentence_transformers.sentence_transformer.losses"
    layouts: ClassVar[dict[str, tuple[str, ...]]] = {
        "triplet": ("anchor", "positive", "negative"),
        "scored": ("sentence1", "sentence2", "score"),
        "labelled": ("sentence1", "sentence2", "label"),
        "pair": ("anchor", "positive"),
    }
    fits: ClassVar[dict[str, tuple[str, ...]]] = {
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
    }
    between: ClassVar[tuple[str, ...]] = ("CosineSimilarityLoss",)
    roles: ClassVar[tuple[str, ...]] = ("anchor", "positive", "negative", "sentence1", "sentence2", "score", "label")

    name: str = "sentence_embedding"
    pooling: POOLING | None = None
    """How the vectors of tokens become one. None: as the model has it; else mean, the last token of a decoder."""
    matryoshka_dims: list[Positive] = field(default_factory=list)
    """Lengths at which the beginning of a vector shall do as well: the loss is that of each and of the whole."""
    normalize: Switch = False
    """Whether `predict` gives vectors of length 1."""

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """The tokens of all texts end to end, how many each has, and the score or label."""
        return self.encoded(rows, tokenizer, facts, max_length, special=True)

    def around(self, model: Any, source: Any, tokenizer: PreTrainedTokenizerBase | None, max_length: int) -> Any:
        """With what pools the vectors of its tokens."""
        from finetune.models import modules

        whole = modules.embedder(model, source, self.pooling)
        size = whole.get_embedding_dimension() or 0
        if long := [each for each in self.matryoshka_dims if each > size]:
            raise UserError(f"task.matryoshka_dims: {long[0]} is more than the {size} dimensions of a vector")
        return self.settled(whole, tokenizer, max_length)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """(rows, tokens of the longest) for each text of a row, as the trainer collects them."""
        from finetune.data.joined import each_padded

        return lambda rows: each_padded(rows, tokenizer)

    def loss_of(self, facts: Facts) -> Callable[[Any], Any]:
        """As chosen, at each of the lengths where several are named."""
        plain = super().loss_of(facts)
        if not self.matryoshka_dims:
            return plain
        from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

        def at_each(model: Any) -> Any:
            dims = {*self.matryoshka_dims, model.get_embedding_dimension()}
            return MatryoshkaLoss(model, plain(model), sorted(dims, reverse=True))

        return at_each

    def forward(self, model: Any, batch: dict[str, torch.Tensor], facts: Facts) -> Any:
        """The loss, and as logits the vectors of a row end to end, (rows, texts × dimensions)."""
        from finetune.data.joined import sides
        from finetune.models.modules import embedded

        return embedded(model, self.loss_of(facts)(model), sides(batch), batch.get("label"))

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """The cosine of a pair and its score or label; else the vectors, and a number for each text."""
        import torch

        from finetune.data.joined import sides
        from finetune.tasks.rankings import fingerprints

        if "label" in batch:
            one, other = logits.float().chunk(2, -1)
            return torch.cosine_similarity(one, other), batch["label"]
        return logits, torch.stack(
            [fingerprints(each["input_ids"], each["attention_mask"]) for each in sides(batch)], -1
        )

    def judged(self, predictions: Any, references: Any, facts: Facts) -> tuple[Any, Any]:
        """Cosines and scores; else what each anchor ranks, among the other texts of the split."""
        from finetune.tasks.rankings import of_vectors

        if facts["layout"] in ("scored", "labelled"):
            return predictions, references
        return of_vectors(predictions.reshape(*references.shape, -1), references)

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Correlation with scores, precision of labels, or how well positives are found."""
        return SCORES[facts["layout"]]

    def predict(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, inputs: Sequence[Any], options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """A vector for a text, the cosine for a pair of texts or a row with the trained columns."""
        import numpy as np

        for number, item in enumerate(inputs):
            texts = self.asked(item, number, options.get("columns", {}))
            found = model.encode(texts, prompt="", normalize_embeddings=self.normalize or len(texts) > 1,
                                 show_progress_bar=False)  # fmt: skip
            answer = {"similarity": round(float(found[0] @ found[1]), 4)} if len(texts) > 1 else None
            yield {"input": item, **(answer or {"embedding": np.asarray(found[0], np.float32).tolist()})}
