"""What tasks of speech share: a sound and its transcript as a row, answers as transcripts. No task by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from finetune.config.task import IGNORED, NOTES, Brought, Encoder, Facts, Media, Task
from finetune.config.types import Number
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from finetune.data.transcripts import Writing

USUAL = {
    "audio": ("audio", "file", "path", "file_name", "filename", "audio_path", "wav"),
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text"),
}


@dataclass(kw_only=True)
class Speech(Task):
    """A transcript is learned to be written of a sound, and scored by its errors."""

    processing_class: ClassVar[str] = "transformers.AutoProcessor"
    media: ClassVar[tuple[str, ...]] = ("audio",)
    unit: ClassVar[str] = "samples"
    roles: ClassVar[tuple[str, ...]] = ("audio", "text")
    answer_rows: ClassVar[int | Literal["all"]] = "all"
    unread: ClassVar[dict[str, str]] = {
        "tokenizer.max_length": "sounds have no tokens; write task.max_duration_in_seconds",
        **dict.fromkeys(("tokenizer.chat_template", "tokenizer.pad_token"), "the processor is taken as it is"),
        "packing": "a sound is a row of its own",
        "trainer.label_smoothing_factor": "models of speech make their loss, or their decoder's inputs, of the labels",
    }

    max_duration_in_seconds: Annotated[Number, Field(gt=0)] = 20.0
    min_duration_in_seconds: Annotated[Number, Field(ge=0)] = 0.025
    """Shorter sounds are dropped and counted; wav2vec 2.0 makes its first frame of 0.025 s."""
    case: Literal["auto", "keep", "upper", "lower"] = "auto"
    """Of the transcripts, learned and scored. auto: that of the vocabulary, where its letters have one alone."""
    overlong: Literal["drop", "error"] = "drop"
    """What becomes of a sound of more than `max_duration_in_seconds`: a cut one would not say its transcript."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """The columns."""
        from finetune.data.columns import distinct

        return {"columns": distinct(train.column_names, columns, USUAL)}

    def settle(self, facts: Facts, tokenizer: Any, brought: Brought) -> Facts:
        """The characters that the tokenizer has, and the case of transcripts."""
        from finetune.data import transcripts

        words = getattr(tokenizer, "tokenizer", None)
        if words is None:
            raise UserError(f"task={self.name}: the model has no tokenizer to write with. Write tokenizer.path=PATH")
        alphabet = transcripts.alphabet_of(words)
        case = transcripts.case_of(alphabet) if self.case == "auto" else self.case
        return {**facts, "alphabet": alphabet, "case": case}

    def limit(self, tokenizer: Any) -> int:
        """Samples."""
        from finetune.data import sounds

        return sounds.limit(tokenizer, self.max_duration_in_seconds, "task.max_duration_in_seconds")

    def encoder(self, rows: Dataset, tokenizer: Any, facts: Facts, max_length: int) -> Encoder:
        """Samples, seconds, the rate of the file, and the ids of the transcript as labels."""
        from finetune.data import columns, sounds

        columns.check(facts["columns"], rows.column_names)
        write, rate = self._writing(facts), sounds.rate_of(tokenizer)
        heard = sounds.reader(facts["columns"]["audio"], rate, self.min_duration_in_seconds)

        def read(row: dict[str, Any], index: int) -> dict[str, Any]:
            text, notes = write(columns.text(row, facts["columns"]["text"]))
            sound = heard(row, index)
            labels = self.labels(tokenizer.tokenizer, text, len(sound["audio"]), facts)
            return {"labels": labels, **sound, NOTES: [*sound[NOTES], *notes]}

        return Encoder(read, lambda items, _: list(items), column="audio", overlong=self.overlong, at_once=32)

    def labels(self, words: Any, text: str, samples: int, facts: Facts) -> list[int]:
        """Ids of a transcript.

        Raises:
            RowError: they cannot be learned of so many samples.
        """
        raise NotImplementedError

    def _writing(self, facts: Facts) -> Writing:
        from finetune.data.transcripts import Writing

        return Writing(facts["alphabet"], facts["case"])

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Waves or spectra as the model's feature extractor makes them, and padded labels."""
        from finetune.data import pairs, sounds

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            return {**sounds.features(tokenizer, [row["audio"] for row in rows]), "labels": pairs.labels_of(rows)}

        return collate

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """Tokens of the transcripts."""
        return int((batch["labels"] != IGNORED).sum())

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Nothing: letters and tokens are no use before they are words."""
        return logits.new_empty(0), logits.new_empty(0)

    def metrics(self, facts: Facts) -> Sequence[str]:
        """The loss alone; errors are counted in answers."""
        return ()

    def answer_metrics(self, facts: Facts) -> Sequence[str]:
        """Errors a word, and a character."""
        return ("wer", "cer")

    def score(self, facts: Facts) -> tuple[str, bool]:
        """Errors a word: lower is better."""
        return "wer", False

    def shown(self, row: dict[str, Any]) -> Media:
        """The sound as the model hears it, and its length."""
        from finetune.data import sounds

        return sounds.shown(row)

    def question(self, row: dict[str, Any], facts: Facts) -> tuple[str, str]:
        """The name of the file, and its transcript as it is learned."""
        from finetune.data import columns, media

        text, _ = self._writing(facts)(columns.text(row, facts["columns"]["text"]))
        return media.named(row[facts["columns"]["audio"]], "sound"), text

    def heard(self, tokenizer: Any, inputs: Sequence[Any], options: dict[str, Any]) -> Iterator[Any]:
        """The samples of what is asked about: names of files, or rows with the trained column.

        Raises:
            UserError: one cannot be heard.
        """
        from finetune.data import sounds

        for number, item in enumerate(inputs):
            try:
                yield sounds.asked(item, options.get("columns", {}).get("audio", "audio"), sounds.rate_of(tokenizer))
            except UserError as error:
                raise UserError(f"input {number}: {error}") from None

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two tones."""
        from finetune.data import sounds

        audio, text = columns.get("audio", "audio"), columns.get("text", "text")
        made = (("low", 200), ("high", 2000))
        return [{audio: {"bytes": sounds.tone(hertz), "path": None}, text: word} for word, hertz in made]
