"""Speech recognition by CTC: letters are learned from frames of a sound, without a word of which belongs to which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config.task import Brought, Facts, RowError
from finetune.config.types import Switch
from finetune.tasks.speech import Speech

if TYPE_CHECKING:
    import torch


@dataclass(kw_only=True)
class SpeechRecognition(Speech):
    """A head of letters over each frame. The vocabulary is that of the model's tokenizer.

    The loss is a mean over all letters, whatever the batches are, where the libraries take one over the rows.
    """

    model_class: ClassVar[str] = "transformers.AutoModelForCTC"

    name: str = "speech_recognition"
    freeze_feature_encoder: Switch = True
    """Leave the convolutions that hear the waves as they were pretrained, where the model has such."""

    def settle(self, facts: Facts, tokenizer: Any, brought: Brought) -> Facts:
        """The size of the head, the token that is no letter, and what makes frames of samples."""
        from finetune.data.transcripts import convolutions_of

        settled, words = super().settle(facts, tokenizer, brought), tokenizer.tokenizer
        size = max(brought.config.get("vocab_size") or 0, words.vocab_size, words.pad_token_id + 1)
        return {
            **settled,
            "vocab_size": size,
            "pad_token_id": words.pad_token_id,
            "convolutions": convolutions_of(brought.config),
        }

    def labels(self, words: Any, text: str, samples: int, facts: Facts) -> list[int]:
        """Ids of the letters, where there is a frame for each."""
        from finetune.data.transcripts import frames, needed

        ids = list(words(text)["input_ids"])
        if facts["convolutions"] and needed(ids) > frames(samples, facts["convolutions"]):
            raise RowError("the transcript needs more frames than its sound has")
        return ids

    def check(self, notes: dict[str, int], trainer: dict[str, Any], adapter: dict[str, Any]) -> str:
        """What was looked at when the rows were read."""
        return "each transcript has a frame a letter, where the model says how it makes frames"

    def model_kwargs(self, facts: Facts) -> dict[str, Any]:
        """The head and the token between letters; where frames were not counted, rows of too few count for nothing."""
        loss = {"ctc_loss_reduction": "sum", "ctc_zero_infinity": not facts["convolutions"]}
        return {**loss, "vocab_size": facts["vocab_size"], "pad_token_id": facts["pad_token_id"]}

    def freeze(self, model: Any) -> None:
        """The convolutions that hear the waves."""
        if self.freeze_feature_encoder and hasattr(model, "freeze_feature_encoder"):
            model.freeze_feature_encoder()

    def forward(self, model: Any, batch: dict[str, torch.Tensor], facts: Facts) -> Any:
        """The sum that the model makes, as a mean over letters."""
        found = model(**batch)
        if "labels" in batch:
            found.loss = found.loss / self.weight(batch)
        return found

    def predict(
        self, model: Any, tokenizer: Any, inputs: Sequence[Any], options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """The likeliest letter of each frame, joined. One sound at a time: padding would be heard by some models."""
        import torch

        from finetune.data import sounds

        for item, samples in zip(inputs, self.heard(tokenizer, inputs, options)):
            given = sounds.features(tokenizer, [samples])
            with torch.no_grad():
                logits = model(**{name: value.to(model.device) for name, value in given.items()}).logits
            yield {"input": item, "answer": tokenizer.decode(logits[0].argmax(-1).tolist())}
