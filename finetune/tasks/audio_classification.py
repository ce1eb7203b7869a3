"""Audio classification: one label for a sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetune.config.task import Encoder, Facts, Media
from finetune.config.types import Number, Switch
from finetune.data import classes
from finetune.errors import UserError
from finetune.tasks.classification import LABELS, Classification, among_few, answer

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

USUAL = {"audio": ("audio", "file", "path", "file_name", "filename", "audio_path", "wav"), "label": LABELS}
OVERLONG = {"truncate": "truncate_end"}


@dataclass(kw_only=True)
class AudioClassification(Classification):
    """A head over a sound. Sounds are mixed to one channel and resampled once, when they are prepared."""

    model_class: ClassVar[str] = "transformers.AutoModelForAudioClassification"
    processing_class: ClassVar[str] = "transformers.AutoFeatureExtractor"
    media: ClassVar[tuple[str, ...]] = ("audio",)
    unit: ClassVar[str] = "samples"
    roles: ClassVar[tuple[str, ...]] = ("audio", "label")
    unread: ClassVar[dict[str, str]] = {
        "tokenizer.max_length": "sounds have no tokens; write task.max_duration_in_seconds",
        **dict.fromkeys(("tokenizer.chat_template", "tokenizer.pad_token"), "sounds have no tokens"),
        "packing": "a sound is a row of its own",
        "evaluation.generation": "a classifier writes nothing",
    }

    name: str = "audio_classification"
    max_duration_in_seconds: Annotated[Number, Field(gt=0)] = 10.0
    min_duration_in_seconds: Annotated[Number, Field(ge=0)] = 0.025
    """Shorter sounds are dropped and counted; wav2vec 2.0 makes its first frame of 0.025 s."""
    freeze_feature_encoder: Switch = True
    """Leave the convolutions that hear the waves as they were pretrained, where the model has such."""
    overlong: Literal["truncate", "drop", "error"] = "truncate"
    """What becomes of a sound of more than `max_duration_in_seconds`; each is counted."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Columns and label names."""
        from finetune.data.columns import detect

        found = detect(train.column_names, columns, USUAL)
        return {"columns": found, **classes.describe(train, found["label"], classes.SINGLE)}

    def limit(self, tokenizer: Any) -> int:
        """Samples."""
        from finetune.data import sounds

        return sounds.limit(tokenizer, self.max_duration_in_seconds, "task.max_duration_in_seconds")

    def encoder(self, rows: Dataset, tokenizer: Any, facts: Facts, max_length: int) -> Encoder:
        """Samples, seconds, the rate of the file, and the label's id."""
        from finetune.data import sounds
        from finetune.data.columns import check

        columns = facts["columns"]
        check(columns, rows.column_names)
        label = classes.reader(rows, facts)
        heard = sounds.reader(columns["audio"], sounds.rate_of(tokenizer), self.min_duration_in_seconds)

        def read(row: dict[str, Any], index: int) -> dict[str, Any]:
            return {"labels": label(row[columns["label"]], index), **heard(row, index)}

        overlong = OVERLONG.get(self.overlong, self.overlong)
        return Encoder(read, lambda items, _: list(items), column="audio", overlong=overlong, at_once=32)

    def freeze(self, model: Any) -> None:
        """The convolutions that hear the waves."""
        if self.freeze_feature_encoder and hasattr(model, "freeze_feature_encoder"):
            model.freeze_feature_encoder()

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Waves or spectra as the model's feature extractor makes them, and labels."""
        import torch

        from finetune.data import sounds

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            labels = torch.tensor([int(row["labels"]) for row in rows])
            return {**sounds.features(tokenizer, [row["audio"] for row in rows]), "labels": labels}

        return collate

    def means(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Top-5 accuracy, of more than five classes."""
        return among_few(logits, batch["labels"])

    def shown(self, row: dict[str, Any]) -> Media:
        """The sound as the model hears it, and its length."""
        from finetune.data import sounds

        return sounds.shown(row)

    def predict(
        self, model: Any, tokenizer: Any, inputs: Sequence[Any], options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """The label with its confidence. An input is the name of a file, or a row with the trained column."""
        import torch

        from finetune.data import sounds

        column, longest = options.get("columns", {}).get("audio", "audio"), options.get("max_length")
        for number, item in enumerate(inputs):
            try:
                samples = sounds.asked(item, column, sounds.rate_of(tokenizer))
            except UserError as error:
                raise UserError(f"input {number}: {error}") from None
            given = sounds.features(tokenizer, [samples[:longest]])
            with torch.no_grad():
                logits = model(**{name: value.to(model.device) for name, value in given.items()}).logits
            yield {"input": item, **answer(logits[0].float().cpu(), model.config)}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """A low and a high tone."""
        from finetune.data import sounds

        names = {role: columns.get(role, role) for role in USUAL}
        made = (("low", 200), ("high", 2000))
        return [
            {names["audio"]: {"bytes": sounds.tone(hertz), "path": None}, names["label"]: name} for name, hertz in made
        ]
