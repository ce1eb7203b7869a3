"""Reward modelling: a score for an answer, learned from answers that are chosen over others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import Brought, Facts, RowError
from finetune.errors import UserError
from finetune.tasks.comparison import Comparison

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(kw_only=True)
class Reward(Comparison):
    """A head of one number over the last token. A column `margin` says by how much an answer is better."""

    model_class: ClassVar[str] = "transformers.AutoModelForSequenceClassification"
    trainer_class: ClassVar[str] = "trl.RewardTrainer"
    loss: ClassVar[str] = "Rewards"
    arguments_class: ClassVar[str] = "trl.RewardConfig"
    trainer_options: ClassVar[dict[str, Any]] = {"max_length": None}
    peft_type: ClassVar[str] = "SEQ_CLS"
    roles: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected", "system", "tools", "margin")
    labels: ClassVar[Literal["ids", "row"]] = "row"
    unread: ClassVar[dict[str, str]] = {"evaluation.generation": "a reward model writes nothing"}

    name: str = "reward"

    def settle(self, facts: Facts, tokenizer: PreTrainedTokenizerBase, brought: Brought) -> Facts:
        """As they are, if the model can be a reward model.

        Raises:
            UserError: its head has named labels.
        """
        if len(brought.labels) > 1:
            raise UserError(
                f"the model's head has the labels {', '.join(brought.labels)}, and a reward is one number. Take a "
                "model without such a head, or task=sequence_classification"
            )
        return facts

    def beside(self, row: dict[str, Any], facts: Facts, index: int) -> dict[str, Any]:
        """The margin, where there is a column of it."""
        from finetune.data.preferences import margin

        column = facts["columns"].get("margin")
        return {"margin": margin(row[column], index)} if column else {}

    def encoded(self, row: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
        """No token has a label: what is learned is a number for the whole."""
        return {name: value for name, value in {**row, **beside}.items() if name != "labels"}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Pairs, with their margins."""
        import torch

        stacked = super().collator(tokenizer)

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            margins = {"margin": torch.tensor([float(row["margin"]) for row in rows])} if "margin" in rows[0] else {}
            return {**stacked(rows), **margins}

        return collate

    def model_kwargs(self, facts: Facts) -> dict[str, Any]:
        """One number."""
        return {"num_labels": 1}

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts) -> None:
        """A decoder finds its last token by the pad token, so the two must agree."""
        model.config.pad_token_id = tokenizer.pad_token_id

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """The reward. An input is a text, messages, or a row with a prompt and a completion, or with messages."""
        import torch

        from finetune.data.rewarded import scored_ids

        for number, item in enumerate(inputs):
            try:
                ids = scored_ids(item, tokenizer, options)
            except RowError as error:
                raise UserError(f"input {number}: {error}") from None
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids], device=model.device)).logits
            yield {"input": item, "reward": round(float(logits[0, 0]), 4)}
