"""What a task is: the interface it fills. Knows no task by name; how tasks are found is known by `installed`.

A task knows what a row means: which columns it needs, how a row becomes model inputs, which head learns it, how
predictions are scored. It knows nothing of Hydra, adapters, quantization, checkpoints or the Hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.encoded import IGNORED as IGNORED
from finetune.config.encoded import NOTES as NOTES
from finetune.config.encoded import Account as Account
from finetune.config.encoded import Brought as Brought
from finetune.config.encoded import Encoder as Encoder
from finetune.config.encoded import Media as Media
from finetune.config.encoded import RowError as RowError
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ARGUMENTS = "arguments"
"""Beside the facts, where rows are scored: what the trainer is given."""
Facts = dict[str, Any]
"""What a task learned from the training split, JSON-able: columns, labels. Made once, stored with the data."""


@dataclass(kw_only=True)
class Task:
    """The interface. Fields of a subclass are the options a user can set under `task:`."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    model_class: ClassVar[str]
    trainer_class: ClassVar[str] = "transformers.Trainer"
    arguments_class: ClassVar[str] = "transformers.TrainingArguments"
    peft_type: ClassVar[str | None] = None
    opened_by: ClassVar[str | None] = None
    """The class that opens what was saved, adapter and all, where that is another library's."""
    processing_class: ClassVar[str] = "transformers.AutoTokenizer"
    """What loads the processing class of the model: a tokenizer, an image processor, a processor of sounds."""
    media: ClassVar[tuple[str, ...]] = ()
    """Roles whose column holds files, by their names or as their bytes."""
    unit: ClassVar[str] = "tokens"
    """What the length of a row counts."""
    roles: ClassVar[tuple[str, ...]] = ()
    """What `dataset.columns` may name."""
    owned: ClassVar[dict[str, str]] = {}
    """Trainer arguments this task decides itself: name to what the user writes instead."""
    unread: ClassVar[dict[str, str]] = {}
    """Keys outside of the task that it never reads, and why."""
    trainer_options: ClassVar[dict[str, Any]] = {}
    """Trainer arguments this task always sets."""
    chunked: ClassVar[bool] = False
    """Whether its trainer always computes the loss in chunks, and never writes all logits down."""
    compares: ClassVar[bool] = False
    """Whether the loss compares with the model as it was: see `reference`."""
    answer_rows: ClassVar[int | Literal["all"]] = 0
    """How many validation rows are answered where `evaluation.generation.rows` says nothing."""

    name: str

    def files(self, facts: Facts) -> list[str]:
        """The columns that hold files."""
        return [facts["columns"][role] for role in self.media if role in facts["columns"]]

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Learn from the training split what the model must know.

        Args:
            train: the raw training rows.
            columns: role to column, as the user named them; roles left out are detected.
        Raises:
            UserError: a column is missing or holds something else than the task needs.
        """
        raise NotImplementedError

    def settle(self, facts: Facts, tokenizer: PreTrainedTokenizerBase, brought: Brought) -> Facts:
        """The facts, made to agree with what the tokenizer and the model bring.

        Raises:
            UserError: they cannot agree.
        """
        return facts

    def join(self, facts: Sequence[Facts]) -> list[Facts]:
        """The facts of several sources, made to agree on what one model learns.

        Raises:
            UserError: they cannot.
        """
        return list(facts)

    def limit(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """How long a row may be, where that is not counted in tokens; None leaves it to `tokenizer.max_length`."""
        return None

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """How rows like these become model inputs.

        Raises:
            UserError: they lack a column, or the tokenizer cannot encode them.
        """
        raise NotImplementedError

    def check(self, notes: dict[str, int], trainer: dict[str, Any], adapter: dict[str, Any]) -> str:
        """What the task looks at before the first step, in words.

        Args:
            notes: counts of the training rows, as its encoder noted them.
            trainer: arguments, with the defaults of the library.
            adapter: the method and its options.
        Raises:
            UserError: the run cannot work.
        """
        return "nothing more to look at"

    def model_kwargs(self, facts: Facts) -> dict[str, Any]:
        """What `from_pretrained` must know of the data, such as the labels."""
        return {}

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts) -> None:
        """Set on the loaded model what must agree with the tokenizer and the data."""

    def around(self, model: Any, source: Any, tokenizer: PreTrainedTokenizerBase | None, max_length: int) -> Any:
        """What is trained and scored, where that is more than the loaded model; see `models.modules`.

        Args:
            source: where the model was loaded from.
            tokenizer: None for the one that lies with the model.
        Raises:
            UserError: what lies with the model does not fit the task's options.
        """
        return model

    def trainer_parts(self, model: Any, facts: Facts) -> dict[str, Any]:
        """Arguments of the trainer besides those that every trainer takes, such as a loss."""
        return {}

    def freeze(self, model: PreTrainedModel) -> None:
        """Leave parts of a model with weights of its own as they are, where the task has an option for that."""

    def forward(self, model: Any, batch: dict[str, torch.Tensor], facts: Facts) -> Any:
        """The `loss` and the `logits` of a batch; without labels, the logits."""
        return model(**batch)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """From encoded rows to one padded batch."""
        raise NotImplementedError

    def scoring_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """The collator of rows that are scored, which draws nothing; that of training, unless it draws."""
        return self.collator(tokenizer)

    def reference(self, model: Any, batch: dict[str, torch.Tensor], facts: Facts) -> torch.Tensor:
        """What the untouched model says of each row, (rows, numbers), where the task `compares`."""
        raise NotImplementedError

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """How many items the mean loss of this batch is a mean over: rows, or trained tokens."""
        return len(batch["labels"])

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Predictions and references of one batch as small arrays, so that logits are never kept."""
        raise NotImplementedError

    def means(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Further scores that are means over rows and need the logits, such as top-5 accuracy: a value a row."""
        return {}

    def judged(self, predictions: Any, references: Any, facts: Facts) -> tuple[Any, Any]:
        """The outcomes of all batches, end to end, as metrics take them."""
        return predictions, references

    def metrics(self, facts: Facts) -> Sequence[str]:
        """The metrics reported when `evaluation.metrics` names none; the first one is the task's score."""
        raise NotImplementedError

    def answer_metrics(self, facts: Facts) -> Sequence[str]:
        """Metrics of the texts that the model gives against those the data gives, where the recipe names none.

        They score the answers to `question`; a task whose score is one of them sets `answer_rows`.
        """
        return ()

    def score(self, facts: Facts) -> tuple[str, bool]:
        """The metric two runs are compared by, and whether greater is better."""
        return self.metrics(facts)[0], True

    def summarize(self, scores: dict[str, float]) -> dict[str, float]:
        """The scores as reported: derived ones added, names the field's own."""
        return scores

    def shown(self, row: dict[str, Any]) -> Media | None:
        """A prepared row to look at or listen to, where it is no text."""
        return None

    def sequences(self, row: dict[str, Any], facts: Facts) -> list[tuple[str, int]]:
        """What each sequence of a prepared row is and how long, where a row is several, end to end."""
        return []

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """A few raw rows that the task can learn from, made up, for a rehearsal without the data.

        Args:
            columns: role to column, as the user named them; roles left out have columns of their usual names.
        Raises:
            UserError: the task makes up no rows.
        """
        raise UserError(f"task={self.name} makes up no rows, so it is rehearsed on its own data: dataset.path=FILE")

    def question(self, row: dict[str, Any], facts: Facts) -> tuple[Any, str | list[str]]:
        """For tasks that answer: what `predict` is asked of a raw row, and the answer or answers the row gives.

        What is asked is JSON-able and needs no `columns`: a text, a list of messages, a mapping by role.

        Raises:
            RowError: the row asks nothing.
        """
        raise UserError(f"task={self.name} answers nothing. Write evaluation.generation.rows=0")

    def rendered(self, row: dict[str, Any], facts: Facts, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
        """A raw row as it is rendered for training: `messages`, `tools`, `text`. None where nothing is rendered.

        Raises:
            RowError: the row cannot be rendered.
        """
        return None

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """One JSON-able answer for each input, in order.

        A task that answers questions gives its text as `answer`, and as `capped` whether the token limit cut it off.

        Args:
            options: `facts`, `max_length`, `columns`, `batch_size`, `max_new_tokens` and `generation_config`, where
                known.
        """
        raise NotImplementedError
