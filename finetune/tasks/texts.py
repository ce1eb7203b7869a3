"""What tasks over several texts of a row share: layouts of columns, a loss of sentence-transformers, prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config.task import Encoder, Facts, RowError, Task
from finetune.config.types import Number
from finetune.data import layouts
from finetune.errors import UserError
from finetune.tasks import losses

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

USUAL = {
    "anchor": ("anchor", "query", "question", "premise", "sentence"),
    "positive": ("positive", "answer", "entailment", "response", "document", "passage"),
    "negative": ("negative", "contradiction", "hard_negative", "negative_1"),
    "sentence1": ("sentence1", "sentence_1", "text1", "sentence_A", "question1"),
    "sentence2": ("sentence2", "sentence_2", "text2", "sentence_B", "question2"),
    "query": ("query", "question", "anchor", "sentence1", "text1"),
    "document": ("document", "passage", "sentence2", "text2", "answer", "text"),
    "documents": ("documents", "docs", "passages", "candidates", "passages.passage_text"),
    "labels": ("labels", "relevance", "is_selected", "passages.is_selected"),
    "score": ("score", "similarity_score", "similarity"),
    "label": ("label", "labels", "is_duplicate"),
}
NUMBERS = ("score", "label", "labels")
"""Roles that are no texts."""
KNOWN = (*NUMBERS, "negative")
"""Roles of what is known of texts, and of texts that nobody asks about."""
EXAMPLES = [
    {
        **dict.fromkeys(("anchor", "query", "sentence1"), first),
        **dict.fromkeys(("positive", "document", "sentence2"), second),
        "negative": third, "documents": [second, third], "labels": [1, 0], "label": related, "score": related,
    }
    for first, second, third, related in (
        ("a dog barks", "a hound is loud", "a ship sails", 1),
        ("rain falls", "it is wet outside", "the sun sets", 0),
    )
]  # fmt: skip


@dataclass(kw_only=True)
class Texts(Task):
    """A model of sentence-transformers, learned by one of that library's losses."""

    family: ClassVar[losses.Family]
    special: ClassVar[bool] = True
    """Whether special tokens lie around each text, or come when texts are paired."""
    owned: ClassVar[dict[str, str]] = {
        "prompts": "task.prompts",
        "router_mapping": "nothing: a model is one transformer",
        "multi_dataset_batch_sampler": "dataset.mixture",
    }
    unread: ClassVar[dict[str, str]] = {
        "tokenizer.chat_template": "texts are read as they are, not rendered",
        "evaluation.generation": "the model writes nothing",
    }

    loss: str | None = None
    """The name of a loss of sentence-transformers; None takes the usual one for the layout of the rows."""
    loss_options: dict[str, Any] = field(default_factory=dict)
    """What that loss takes, by its own names; a function of the library by the function's name."""
    prompts: dict[str, str] = field(default_factory=dict)
    """What is put before the texts of a role, such as `query: `."""
    score_range: list[Number] | None = None
    """The least and the most score there can be; scores are brought to 0 to 1."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """The layout of the rows and its columns; the loss must learn from such rows."""
        layout, found = layouts.detect(train.flatten().column_names, columns, self.family.layouts, USUAL)
        losses.check(self.family.path(self.loss, layout), self.loss_options)
        layouts.check_range(self.score_range, layout)
        if strange := [role for role in self.prompts if role not in found]:
            raise UserError(f"task.prompts.{strange[0]}: rows are {layout}, and have {', '.join(found)}")
        return {"layout": layout, "columns": found}

    def join(self, facts: Sequence[Facts]) -> list[Facts]:
        """Of all sources the same layout."""
        layouts.same(each["layout"] for each in facts)
        return list(facts)

    def loss_of(self, facts: Facts) -> Callable[[Any], Any]:
        """From a model to its loss."""
        return losses.build(self.family.path(self.loss, facts["layout"]), self.loss_options)

    def trainer_parts(self, model: Any, facts: Facts) -> dict[str, Any]:
        """The loss."""
        return {"loss": self.loss_of(facts)(model)}

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """The tokens of all texts end to end, how many each has, and what is known of them."""
        from finetune.data import joined
        from finetune.data.columns import check

        check(facts["columns"], rows.flatten().column_names)

        def tokenize(items: Sequence[Any], _: int | None) -> list[dict[str, Any]]:
            return joined.rows(items, tokenizer, max_length, self.special)

        is_list = facts["layout"] == "candidates"
        lists = (joined.LENGTHS, "labels") if is_list else (joined.LENGTHS,)
        return Encoder(lambda row, at: self.read(row, at, facts), tokenize, lists=lists, overlong="whole")

    def read(self, row: dict[str, Any], index: int, facts: Facts) -> tuple[list[str], Any]:
        """The texts of a row with their prompts, and the score or label."""
        columns, known = facts["columns"], None
        texts = [self.text(row, role, columns[role]) for role in self._texts(facts)]
        if column := columns.get("score"):
            known = layouts.number(layouts.value(row, column), column, index, self.score_range)
            if self.family.path(self.loss, "scored").endswith(self.family.between):
                layouts.check_share(known, column, index)
        elif column := columns.get("label"):
            known = layouts.label(layouts.value(row, column), column, index)
        return texts, known

    def sequences(self, row: dict[str, Any], facts: Facts) -> list[tuple[str, int]]:
        """The texts by their roles; of candidates each has that of all."""
        from finetune.data.joined import LENGTHS

        roles = self._texts(facts)
        more = [roles[-1]] * (len(row[LENGTHS]) - len(roles))
        return list(zip([*roles, *more], row[LENGTHS], strict=True))

    def _texts(self, facts: Facts) -> list[str]:
        """The roles of texts in the order in which a row holds them, which the columns of stored facts do not keep."""
        return [role for role in self.family.layouts[facts["layout"]] if role not in NUMBERS]

    def text(self, row: dict[str, Any], role: str, column: str) -> str:
        """A text of a row, behind the prompt of its role."""
        return self.prompts.get(role, "") + layouts.text(layouts.value(row, column), column)

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """Rows; what compares them inside of a batch has a mean that depends on how rows are cut into batches."""
        return len(next(iter(batch.values())))

    def metrics(self, facts: Facts) -> Sequence[str]:
        """By the layout: how well the right texts are found, or how well scores and labels are told."""
        return self.family.metrics[facts["layout"] if facts.get("grouped", True) else "alone"]

    def score(self, facts: Facts) -> tuple[str, bool]:
        """The loss where nothing else is measured."""
        return super().score(facts) if self.metrics(facts) else ("loss", False)

    def settled(self, model: Any, tokenizer: PreTrainedTokenizerBase | None, max_length: int) -> Any:
        """The whole with the run's tokenizer and length; prompts are the recipe's, and texts no messages."""
        # sentence-transformers renders every text where the tokenizer has a chat template, also in the saved folder.
        model[0].modality_config.pop("message", None)
        model[0].input_formatter.supported_modalities = list(model[0].modality_config)
        if tokenizer is not None:
            model[0].processor = tokenizer
        model.max_seq_length = max_length
        model.prompts, model.default_prompt_name = {**model.prompts, **self.prompts}, None
        return model

    def asked(self, item: Any, number: int, columns: dict[str, str]) -> list[str]:
        """The text, or the pair of texts, that a user asks about.

        Raises:
            UserError: it is something else.
        """
        known = {role: column for role, column in columns.items() if role not in KNOWN}
        given = [item] if isinstance(item, str) else item
        row = given if isinstance(given, dict) else {}
        if isinstance(given, list | tuple) and len(given) <= 2:
            row = dict(zip(known.values(), given, strict=False))
        try:
            texts = [self.text(row, role, column) for role, column in known.items() if column in row]
        except RowError as error:
            raise UserError(f"input {number}: {error}") from None
        if not texts:
            names = ", ".join(known.values())
            raise UserError(f"input {number}: {item!r} is not a text, a pair of texts, or a row with {names}")
        return texts

    def pair(self, item: Any, number: int, columns: dict[str, str]) -> list[str]:
        """The pair of texts that a user asks about.

        Raises:
            UserError: it is something else.
        """
        if len(texts := self.asked(item, number, columns)) != 2:
            raise UserError(f"input {number}: {item!r} is not a pair of texts")
        return texts

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Pairs of texts in the layout that the named columns belong to."""
        named = (roles for roles in reversed(self.family.layouts.values()) if set(columns) <= set(roles))
        roles = next(named, self.family.layouts["pair"])
        return [{columns.get(role, role): row[role] for role in roles} for row in EXAMPLES]
