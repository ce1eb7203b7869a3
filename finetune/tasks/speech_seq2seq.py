"""Speech recognition by writing: an encoder-decoder hears a sound and writes its transcript, as Whisper does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from finetune.config.task import Brought, Facts, RowError
from finetune.config.types import Positive, Text
from finetune.errors import UserError
from finetune.models import languages
from finetune.tasks.speech import Speech

NEW_TOKENS = 225
"""Half of what Whisper's decoder has positions for: its other half is for what was said before."""
BATCH = 8


@dataclass(kw_only=True)
class SpeechSeq2Seq(Speech):
    """A decoder of tokens over what an encoder hears."""

    model_class: ClassVar[str] = "transformers.AutoModelForSpeechSeq2Seq"

    name: str = "speech_seq2seq"
    language: Text | None = None
    """What is spoken, such as `spanish` or `es`; for a model of many languages."""
    max_target_length: Positive | None = None
    """Tokens a transcript may have, with what stands before it and its end. None takes all that the decoder has."""

    def settle(self, facts: Facts, tokenizer: Any, brought: Brought) -> Facts:
        """The language, the token that a decoder begins with, and the room it has."""
        settled, speaks = super().settle(facts, tokenizer, brought), brought.generation.get("is_multilingual")
        if speaks and self.language is None:
            raise UserError("the model writes the language before a transcript: write task.language, such as english")
        if self.language and speaks is False:
            raise UserError(f"task.language={self.language}: the model knows one language alone. Leave it out")
        most, wanted = brought.positions, self.max_target_length
        if most and wanted and wanted > most:
            raise UserError(f"task.max_target_length={wanted} is more than the model's {most} positions")
        languages.speak(tokenizer.tokenizer, self.language)
        return {**settled, "begin": brought.config.get("decoder_start_token_id"), "most": wanted or most}

    def labels(self, words: Any, text: str, samples: int, facts: Facts) -> list[int]:
        """Ids of the text, with what stands before it and its end; a decoder begins by itself."""
        from finetune.data.transcripts import ended

        ids, most = ended(list(words(text)["input_ids"]), facts["begin"], words.eos_token_id), facts["most"]
        if most is None or len(ids) <= most:
            return ids
        if self.overlong == "error":
            raise UserError(f"a transcript of {len(ids)} tokens, more than {most}")
        raise RowError(f"transcript longer than {most} tokens")

    def configure(self, model: Any, tokenizer: Any, facts: Facts) -> None:
        """The decoder begins in the language, where the model does not write that by itself."""
        languages.speak(tokenizer.tokenizer, self.language)
        if self.language and hasattr(model.generation_config, "lang_to_id"):
            words = tokenizer.tokenizer
            model.generation_config.language, model.generation_config.task = words.language, words.task

    def predict(
        self, model: Any, tokenizer: Any, inputs: Sequence[Any], options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """What is written of each sound."""
        from finetune.data import sounds
        from finetune.models.generate import transcribed

        given = {"max_new_tokens": self.max_target_length or NEW_TOKENS} | options
        heard, items = self.heard(tokenizer, inputs, options), iter(inputs)
        while batch := list(islice(heard, options.get("batch_size", BATCH))):
            for answer in transcribed(model, tokenizer.tokenizer, sounds.features(tokenizer, batch), given):
                yield {"input": next(items), "answer": answer.text, "capped": answer.capped}
