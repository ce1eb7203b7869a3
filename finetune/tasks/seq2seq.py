"""Sequence to sequence: a text is learned to be written from another, as in translation and summarization."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import IGNORED, NOTES, Encoder, Facts, Task
from finetune.config.types import Positive, Text
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

USUAL = {
    "source": ("source", "src", "document", "article", "dialogue", "inputs", "input", "text"),
    "target": ("target", "tgt", "summary", "highlights", "targets", "output"),
}


@dataclass(kw_only=True)
class Seq2Seq(Task):
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
        from finetune.data.columns import detect, names

        spoken = {"source": self.source_lang, "target": self.target_lang}
        usual = {role: (str(code), f"translation.{code}", *USUAL[role]) for role, code in spoken.items()}
        found = detect(names(train), columns, usual)
        if found["source"] == found["target"]:
            raise UserError(f"column {found['source']} is the source and the target: name another one for either")
        return {"columns": found}

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """Ids of the source, and of the target as labels."""
        from finetune.data import targets
        from finetune.data.columns import check, names
        from finetune.models import languages

        check(facts["columns"], names(rows))
        languages.choose(tokenizer, self.source_lang, self.target_lang)
        limit = self.max_target_length or max_length

        def tokenize(pairs: Sequence[tuple[str, str]], cut: int | None) -> list[dict[str, Any]]:
            sources = [self.source_prefix + source for source, _ in pairs]
            ids = tokenizer(sources, truncation=cut is not None, max_length=cut, verbose=False)["input_ids"]
            labels = targets.encode(tokenizer, [target for _, target in pairs], limit, self.overlong)
            return [{"input_ids": row, "labels": of, NOTES: notes} for row, (of, notes) in zip(ids, labels)]

        cut = max_length if self.overlong == "truncate" else None
        return Encoder(lambda row, _: self.question(row, facts), tokenize, overlong=self.overlong, cut=cut)

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts) -> None:
        """The decoder begins in the target language."""
        from finetune.models import languages

        languages.choose(tokenizer, self.source_lang, self.target_lang)
        model.generation_config.update(**languages.begins(tokenizer))

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads both sides to the longest of a batch."""
        from finetune.data.targets import collator

        return collator(tokenizer)

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """Tokens of targets."""
        return int((batch["labels"] != IGNORED).sum())

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Predicted and true token of each target, given those before it."""
        trained = batch["labels"] != IGNORED
        return logits.argmax(-1)[trained], batch["labels"][trained]

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Share of tokens found, given those before them."""
        return ("accuracy",)

    def answer_metrics(self, facts: Facts) -> Sequence[str]:
        """Of translations, or of summaries."""
        return ("sacrebleu", "chrf") if self.target_lang else ("rougeL", "rouge1", "rouge2")

    def score(self, facts: Facts) -> tuple[str, bool]:
        """The first of them."""
        return self.answer_metrics(facts)[0], True

    def summarize(self, scores: dict[str, float]) -> dict[str, float]:
        """Accuracy is of tokens."""
        return {"token_accuracy" if name == "accuracy" else name: value for name, value in scores.items()}

    def question(self, row: dict[str, Any], facts: Facts) -> tuple[str, str]:
        """Source and target."""
        from finetune.data.columns import text

        columns = facts["columns"]
        return text(row, columns["source"]), text(row, columns["target"])

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """What is written for each source. An input is a text, or a row with the source's column."""
        from finetune.data.columns import asked
        from finetune.models.generate import BATCH, written

        texts = asked(inputs, options.get("columns", {}).get("source", "source"))
        sources, limit = [self.source_prefix + text for text in texts], options.get("max_length")
        most = {"max_new_tokens": options.get("max_new_tokens") or self.max_target_length or 256}
        decoding = most | options.get("generation_config", {})
        found = written(model, tokenizer, sources, limit, decoding, options.get("batch_size", BATCH))
        for item, answer in zip(inputs, found, strict=True):
            yield {"input": item, "answer": answer.text, "capped": answer.capped}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two pairs."""
        source, target = columns.get("source", "source"), columns.get("target", "target")
        pairs = (("the sun rises", "le soleil se lève"), ("rain falls", "la pluie tombe"))
        return [{source: one, target: other} for one, other in pairs]
