"""Image classification: one label, several labels, or a number for an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import NOTES, Encoder, Facts, Media, RowError
from finetune.config.types import Share
from finetune.data import classes
from finetune.errors import UserError
from finetune.tasks.classification import LABELS, Classification, among_few, answer

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

USUAL = {"image": ("image", "img", "pixel_values", "file_name", "file", "path", "filename", "image_path"),
         "label": LABELS}  # fmt: skip


@dataclass(kw_only=True)
class ImageClassification(Classification):
    """A head over an image. Files are kept as they are, and decoded, resized and normalised as batches are made."""

    model_class: ClassVar[str] = "transformers.AutoModelForImageClassification"
    processing_class: ClassVar[str] = "transformers.AutoImageProcessor"
    media: ClassVar[tuple[str, ...]] = ("image",)
    unit: ClassVar[str] = "bytes"
    roles: ClassVar[tuple[str, ...]] = ("image", "label")
    unread: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("tokenizer.max_length", "tokenizer.chat_template", "tokenizer.pad_token"), "images have no tokens"
        ),
        "packing": "an image is a row of its own",
        "evaluation.generation": "a classifier writes nothing",
    }

    name: str = "image_classification"
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    """auto: names or integers are one label, lists several, fractions a number."""
    flip: Share = 0.0
    """The share of images that are mirrored from left to right while training, drawn anew each epoch."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Columns, problem type and label names."""
        from finetune.data.columns import detect

        found = detect(train.column_names, columns, USUAL)
        return {"columns": found, **classes.describe(train, found["label"], self.problem_type)}

    def limit(self, tokenizer: Any) -> int:
        """Images are resized: none is too large."""
        from finetune.data.lengths import UNLIMITED

        return UNLIMITED

    def encoder(self, rows: Dataset, tokenizer: Any, facts: Facts, max_length: int) -> Encoder:
        """The bytes of the file, its size in pixels, and the label's id, ids or value."""
        import numpy as np

        from finetune.data import images, media
        from finetune.data.columns import check

        columns, mode = facts["columns"], _mode(tokenizer)
        check(columns, rows.column_names)
        label = classes.reader(rows, facts)

        def read(row: dict[str, Any], index: int) -> dict[str, Any]:
            try:
                file = media.read(row[columns["image"]], "image")
            except UserError as error:
                raise UserError(f"row {index}: {columns['image']} {error}") from None
            labels = label(row[columns["label"]], index)
            width, height, notes = images.check(file, mode)
            content = np.frombuffer(file.content, np.uint8)
            return {"image": content, "width": width, "height": height, "labels": labels, NOTES: notes}

        return Encoder(read, lambda items, _: list(items), column="image", overlong="whole", at_once=32)

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pixels as the model's image processor makes them, some of the images mirrored."""
        return lambda rows: _batch(rows, tokenizer, self.flip)

    def scoring_collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """No image mirrored."""
        return lambda rows: _batch(rows, tokenizer, 0.0)

    def means(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Top-5 accuracy, of more than five classes."""
        return among_few(logits, batch["labels"])

    def shown(self, row: dict[str, Any]) -> Media:
        """The image, and its size."""
        from finetune.data import images

        return images.shown(row)

    def predict(
        self, model: Any, tokenizer: Any, inputs: Sequence[Any], options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """The label with its confidence. An input is the name of a file, or a row with the trained column."""
        import torch

        from finetune.data import images, media

        column, mode = options.get("columns", {}).get("image", "image"), _mode(tokenizer)
        for number, item in enumerate(inputs):
            try:
                file = media.read(item.get(column) if isinstance(item, dict) else item, "image")
                images.check(file, mode)
            except (RowError, UserError) as error:
                raise UserError(f"input {number}: {error}; write the name of a file, or a row with {column}") from None
            pixels = tokenizer([images.pixels(file.content, mode)], return_tensors="pt").to(model.device)
            with torch.no_grad():
                logits = model(**pixels).logits[0].float().cpu()
            yield {"input": item, **answer(logits, model.config)}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """A dark and a bright image."""
        from finetune.data import images

        names, kinds = ("no", "yes"), {classes.MULTI: ([0], [0, 1]), classes.REGRESSION: (0.2, 0.9)}
        found = zip((40, 220), kinds.get(self.problem_type, names), strict=True)
        made = [{"image": {"bytes": images.plain(grey), "path": None}, "label": label} for grey, label in found]
        return [{columns.get(role, role): value for role, value in row.items()} for row in made]


def _mode(processor: Any) -> str:
    """Grey where the processor normalises one channel, else colours."""
    mean = getattr(processor, "image_mean", None)
    return "L" if isinstance(mean, list | tuple) and len(mean) == 1 else "RGB"


def _batch(rows: list[dict[str, Any]], processor: Any, flip: float) -> dict[str, Any]:
    """Pixels, (rows, channels, height, width), and labels."""
    import numpy as np
    import torch

    from finetune.data import images

    mode = _mode(processor)
    found = [images.pixels(np.asarray(row["image"], np.uint8).tobytes(), mode) for row in rows]
    if flip:
        found = [images.mirrored(each) if torch.rand(()) < flip else each for each in found]
    return {
        **processor(found, return_tensors="pt"),
        "labels": torch.as_tensor(np.stack([row["labels"] for row in rows])),
    }
