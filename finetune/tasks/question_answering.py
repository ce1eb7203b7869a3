"""Extractive question answering: the answer is a stretch of a context, or there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import Brought, Encoder, Facts, Task
from finetune.config.types import Count, Number, Positive
from finetune.data import answers
from finetune.data.answers import Answered
from finetune.data.windows import Decoding, Windows
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

USUAL = {
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph"),
    "answers": ("answers", "answer"),
    "answer_start": ("answer_start",),
}
BATCH = 16


@dataclass(kw_only=True)
class QuestionAnswering(Task):
    """Which token of the context is the first of the answer, and which the last; long contexts in windows."""

    model_class: ClassVar[str] = "transformers.AutoModelForQuestionAnswering"
    # None: PEFT's own class for this head drops token_type_ids, and takes no account of learned prompts in positions
    # (`PeftModelForQuestionAnswering.forward`, peft 0.21.2).
    peft_type: ClassVar[str | None] = None
    roles: ClassVar[tuple[str, ...]] = tuple(USUAL)
    unread: ClassVar[dict[str, str]] = {
        "tokenizer.chat_template": "questions and contexts are read as they are, not rendered",
        "evaluation.generation.max_new_tokens": "an answer is a stretch of the context: task.max_answer_length",
        "evaluation.generation.generation_config": "an answer is a stretch of the context, and nothing is generated",
        "trainer.label_smoothing_factor": "the loss is that of positions of answers",
    }
    answer_rows: ClassVar[int | Literal["all"]] = "all"

    name: str = "question_answering"
    stride: Count | None = None
    """Tokens of the context that a window shares with the one before; null takes a third of `tokenizer.max_length`."""
    max_answer_length: Positive = 30
    """Tokens an answer may have when one is asked for."""
    n_best: Positive = 20
    """How many of the likeliest answers the confidence of the likeliest one is a share among."""
    null_score_diff_threshold: Number = 0.0
    """By how much no answer must score higher than the likeliest one to be given, where train has such questions."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """The columns, and whether there are questions without an answer."""
        from finetune.data.columns import detect

        found = detect(train.column_names, columns, USUAL, optional=("answer_start",))
        rows = train.select_columns([found[role] for role in ("answers", "answer_start") if role in found])
        has_answer = [bool(answers.of_row(row, found, at)) for at, row in enumerate(rows)]
        if not any(has_answer):
            raise UserError(f"no question of train has an answer in column {found['answers']}")
        return {"columns": found, "unanswerable": not all(has_answer)}

    def join(self, facts: Sequence[Facts]) -> list[Facts]:
        """Questions without an answer in one source are learned for all."""
        return [{**found, "unanswerable": any(each["unanswerable"] for each in facts)} for found in facts]

    def settle(self, facts: Facts, tokenizer: PreTrainedTokenizerBase, brought: Brought) -> Facts:
        """Tokens must say which characters they are."""
        if not tokenizer.is_fast:
            raise UserError("task=question_answering needs a fast tokenizer, which says where in a text a token is")
        return facts

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """Windows of question and context; labels mark the tokens of the answer, or the one that stands for none."""
        from finetune.data.columns import check

        columns = facts["columns"]
        check(columns, rows.column_names)
        windows = self._windows(tokenizer, max_length)

        def read(row: dict[str, Any], index: int) -> Answered:
            question, context = answers.asked(row, columns)
            return answers.placed(question, context, answers.of_row(row, columns, index))

        return Encoder(read, lambda items, _: windows.labelled(items), labels="tokens", overlong="whole")

    def _windows(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Windows:
        return Windows(tokenizer, max_length, max_length // 3 if self.stride is None else self.stride)

    def model_kwargs(self, facts: Facts) -> dict[str, Any]:
        """A number for the first and one for the last token, whatever head the model was made with."""
        return {"num_labels": 2}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads to the longest row of a batch; labels are the first and the last token of the answer."""
        from finetune.models import spans

        return partial(spans.collate, tokenizer)

    def forward(self, model: Any, batch: dict[str, torch.Tensor], facts: Facts) -> Any:
        """A loss over the tokens of each window alone."""
        from finetune.models import spans

        return spans.forward(model, batch)

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """The likeliest and the true first and last token of each window."""
        return logits.argmax(1).flatten(), batch["labels"].flatten()

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Share of first and last tokens that are found."""
        return ("accuracy",)

    def summarize(self, scores: dict[str, float]) -> dict[str, float]:
        """Accuracy is of positions in windows."""
        return {"position_accuracy" if name == "accuracy" else name: value for name, value in scores.items()}

    def answer_metrics(self, facts: Facts) -> Sequence[str]:
        """SQuAD's, over the texts of answers."""
        return ("squad_f1", "squad_exact_match")

    def score(self, facts: Facts) -> tuple[str, bool]:
        """Words of the answer that are right."""
        return "squad_f1", True

    def question(self, row: dict[str, Any], facts: Facts) -> tuple[Any, Any]:
        """Question and context, and every answer that is right."""
        question, context = answers.asked(row, facts["columns"])
        texts = [text for text, _ in answers.of_row(row, facts["columns"], 0)]
        return {"question": question, "context": context}, texts or [""]

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """The likeliest answer, its place in the context and its confidence. An input is a question with a context."""
        from finetune.models import spans
        from finetune.models.tokenizer import max_length_of

        facts, size = options.get("facts", {}), options.get("batch_size") or BATCH
        threshold = self.null_score_diff_threshold if facts.get("unanswerable") else None
        decoding = Decoding(self.max_answer_length, self.n_best, threshold)
        windows = self._windows(tokenizer, options.get("max_length") or max_length_of(tokenizer, model.config))
        pairs = [answers.pair(item, number, options.get("columns", {})) for number, item in enumerate(inputs)]
        for start in range(0, len(pairs), size):
            batch = pairs[start : start + size]
            found = [own for own, _ in windows.of(*zip(*batch, strict=True))]
            logits = spans.logits(model, tokenizer, [window.columns for own in found for window in own], size)
            for item, (_, context), own in zip(inputs[start:], batch, found):
                yield {"input": item, **decoding.answer(context, own, list(islice(logits, len(own))))}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two questions, in the layout that the named columns belong to."""
        question, context, name = (columns.get(role, role) for role in ("question", "context", "answers"))
        rows = (("What barks?", "At night a dog barks.", "a dog", 9), ("Who sings?", "Ann sings a song.", "Ann", 0))
        if place := columns.get("answer_start"):
            return [dict(zip((question, context, name, place), row, strict=True)) for row in rows]
        return [{question: q, context: c, name: {"text": [a], "answer_start": [at]}} for q, c, a, at in rows]
