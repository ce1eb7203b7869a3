"""Sentence embedding: a vector for each text, near to those of texts that belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import Facts
from finetune.config.types import Positive, Switch
from finetune.errors import UserError
from finetune.tasks import losses
from finetune.tasks.texts import Texts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

POOLING = Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@dataclass(kw_only=True)
class SentenceEmbedding(Texts):
    """A sentence-transformers model. What a loss compares inside a batch, it compares inside a micro-batch."""

    model_class: ClassVar[str] = "transformers.AutoModel"
    trainer_class: ClassVar[str] = "sentence_transformers.SentenceTransformerTrainer"
    arguments_class: ClassVar[str] = "sentence_transformers.SentenceTransformerTrainingArguments"
    peft_type: ClassVar[str] = "FEATURE_EXTRACTION"
    opened_by: ClassVar[str] = "sentence_transformers.SentenceTransformer"
    family: ClassVar[losses.Family] = losses.EMBEDDING
    roles: ClassVar[tuple[str, ...]] = losses.EMBEDDING.roles

    name: str = "sentence_embedding"
    pooling: POOLING | None = None
    """How the vectors of tokens become one. None: as the model has it; else mean, the last token of a decoder."""
    matryoshka_dims: list[Positive] = field(default_factory=list)
    """Lengths at which the beginning of a vector shall do as well: the loss is that of each and of the whole."""
    normalize: Switch = False
    """Whether `predict` gives vectors of length 1."""

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
        return losses.at_lengths(plain, self.matryoshka_dims) if self.matryoshka_dims else plain

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
        texts = [fingerprints(each["input_ids"], each["attention_mask"]) for each in sides(batch)]
        return logits, torch.stack(texts, -1)

    def judged(self, predictions: Any, references: Any, facts: Facts) -> tuple[Any, Any]:
        """Cosines and scores; else what each anchor ranks, among the other texts of the split."""
        from finetune.tasks.rankings import of_vectors

        if facts["layout"] in ("scored", "labelled"):
            return predictions, references
        return of_vectors(predictions.reshape(*references.shape, -1), references)

    def predict(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, inputs: Sequence[Any], options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """A vector for a text, the cosine for a pair of texts or a row with the trained columns."""
        for number, item in enumerate(inputs):
            texts = self.asked(item, number, options.get("columns", {}))
            unit = self.normalize or len(texts) > 1
            found = model.encode(texts, prompt="", normalize_embeddings=unit, show_progress_bar=False)
            if len(texts) > 1:
                yield {"input": item, "similarity": round(float(found[0] @ found[1]), 4)}
            else:
                yield {"input": item, "embedding": found[0].astype("float32").tolist()}
