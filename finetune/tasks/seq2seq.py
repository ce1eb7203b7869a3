"""Sequence to sequence: a text is learned to be written from another, as in translation and summarization."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import Brought, Encoder, Facts
from finetune.config.types import Positive, Text
from finetune.data import columns as named
from finetune.data import pairs
from finetune.errors import UserError
from finetune.models import languages
from finetune.tasks.language_model import LanguageModel

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SOURCE = ("source", "src", "document", "article", "dialogue", "inputs", "input", "text")
TARGET = ("target", "tgt", "summary", "highlights", "targets", "output")


@dataclass(kw_only=True)
class Seq2Seq(LanguageModel):
    """An encoder-decoder. Where `target_lang` is named it translates, scored by sacreBLEU; else ROUGE scores it."""

    model_class: ClassVar[str] = "transformers.AutoModelForSeq2SeqLM"
    peft_type: ClassVar[str] = "SEQ_2_SEQ_LM"
    roles: ClassVar[tuple[str, ...]] = ("source", "target")
    answer_rows: ClassVar[int | Literal["all"]] = "all"
    unread: ClassVar[dict[str, str]] = {"tokenizer.chat_template": "texts are read as they are, not rendered"}

    name: str = "seq2seq"
    source_lang: Text | None = None
    """The language translated from: a code of the tokenizer, or the name of its column."""
    target_lang: Text | None = None
    """The language translated into."""
    source_prefix: str = ""
    """What every source begins with, such as `summarize: ` for T5."""
    max_target_length: Positive | None = None
    """Tokens a target may have. None takes `tokenizer.max_length`."""
    overlong: Literal["truncate", "drop", "error"] = "truncate"
    """What becomes of a row whose source or target is longer; each is counted. A cut target gets no false end."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """The columns: those named, of the languages, or of usual names."""
        sources = (f"{self.source_lang}", f"translation.{self.source_lang}", *SOURCE)
        targets = (f"{self.target_lang}", f"translation.{self.target_lang}", *TARGET)
        return {"columns": named.distinct(named.names(train), columns, {"source": sources, "target": targets})}

    def settle(self, facts: Facts, tokenizer: PreTrainedTokenizerBase, brought: Brought) -> Facts:
        """A target must have room in the decoder."""
        most = brought.positions
        if self.max_target_length and most and self.max_target_length > most:
            raise UserError(
                f"task.max_target_length={self.max_target_length} is more than the model's {most} positions"
            )
        return facts

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """Ids of the source, and of the target as labels."""
        named.check(facts["columns"], named.names(rows))
        languages.choose(tokenizer, self.source_lang, self.target_lang)
        encode = pairs.Encoding(tokenizer, self.source_prefix, self.max_target_length or max_length, self.overlong)
        cut = max_length if self.overlong == "truncate" else None
        return Encoder(lambda row, _: self.question(row, facts), encode, overlong=self.overlong, cut=cut)

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts) -> None:
        """The decoder begins in the target language."""
        model.generation_config.update(**languages.choose(tokenizer, self.source_lang, self.target_lang))

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads both sides to the longest of a batch."""
        return pairs.collator(tokenizer)

    def answer_metrics(self, facts: Facts) -> Sequence[str]:
        """Of translations, or of summaries."""
        return ("sacrebleu", "chrf") if self.target_lang else ("rougeL", "rouge1", "rouge2")

    def score(self, facts: Facts) -> tuple[str, bool]:
        """The first of them."""
        return self.answer_metrics(facts)[0], True

    def question(self, row: dict[str, Any], facts: Facts) -> tuple[str, str]:
        """Source and target."""
        return named.text(row, facts["columns"]["source"]), named.text(row, facts["columns"]["target"])

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """What is written for each source. An input is a text, or a row with the source's column."""
        from finetune.models.generate import written

        texts = named.asked(inputs, options.get("columns", {}).get("source", "source"))
        given = {"max_new_tokens": self.max_target_length or 256} | options
        found = written(model, tokenizer, [self.source_prefix + text for text in texts], given)
        for item, answer in zip(inputs, found, strict=True):
            yield {"input": item, "answer": answer.text, "capped": answer.capped}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two pairs."""
        rows = (("the sun rises", "le soleil se lève"), ("rain falls", "la pluie tombe"))
        return [{columns.get("source", "source"): one, columns.get("target", "target"): other} for one, other in rows]
