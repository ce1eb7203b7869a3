"""KTO: single answers that are wanted or not, without a pair to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config.task import IGNORED, NOTES, Facts
from finetune.errors import UserError
from finetune.tasks.comparison import Comparison, padded, sequences

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
DESIRABLE, UNDESIRABLE = "desirable answers", "undesirable answers"


@dataclass(kw_only=True)
class KTO(Comparison):
    """Kahneman-Tversky optimization (arXiv 2402.01306). A pair is an answer that is wanted and one that is not.

    Its estimate of a divergence pairs each prompt with an answer to another one: that of the row before in the batch,
    of the same kind where rows are pairs.
    """

    trainer_class: ClassVar[str] = "finetune.tasks.trl_trainers.ShuffledKTO"
    loss: ClassVar[str] = "LogRatios"
    arguments_class: ClassVar[str] = "trl.KTOConfig"
    trainer_options: ClassVar[dict[str, Any]] = {"max_length": None}
    roles: ClassVar[tuple[str, ...]] = ("prompt", "completion", "label", "chosen", "rejected", "system", "tools")
    lists: ClassVar[tuple[str, ...]] = ("seq_lengths", "wanted")
    owned: ClassVar[dict[str, str]] = Comparison.owned | {
        "precompute_ref_log_probs": "nothing: with which prompt an answer is paired is not known before its batch is",
    }
    compares: ClassVar[bool] = True
    chunked: ClassVar[bool] = True

    name: str = "kto"

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Layout and columns; rows must be of both kinds."""
        facts = super().describe(train, columns)
        column = facts["columns"].get("label")
        if column and len(set(train[column]) - {None}) < 2:
            raise UserError(f"every {column} of train is {train[column][0]!r}: KTO learns from answers of both kinds")
        return facts

    def join(self, facts: Sequence[Facts]) -> list[Facts]:
        """Sources of one layout: pairs and single answers are rows of different kinds."""
        if len({"label" in each["columns"] for each in facts}) > 1:
            raise UserError("some sources have pairs, chosen and rejected, and others single answers with a label")
        return list(facts)

    def answers(self, row: Row, facts: Facts) -> tuple[Any, ...]:
        """One answer, or both of a pair."""
        from finetune.data import preferences

        return (preferences.single(row, facts),) if "label" in facts["columns"] else preferences.pair(row, facts)

    def beside(self, row: Row, facts: Facts, index: int) -> Row:
        """Which of the answers are wanted."""
        from finetune.data.preferences import wanted

        column = facts["columns"].get("label")
        return {"wanted": [wanted(row[column], index)] if column else [1, 0]}

    def encoded(self, row: Row, beside: Row) -> Row:
        """Both kinds are counted."""
        kinds = [DESIRABLE if each else UNDESIRABLE for each in beside["wanted"]]
        return {**row, **beside, NOTES: [*row[NOTES], *kinds]}

    def sequences(self, row: Row, facts: Facts) -> list[tuple[str, int]]:
        """Each answer by its kind."""
        kinds = ("desirable" if each else "undesirable" for each in row["wanted"])
        return list(zip(kinds, row["seq_lengths"], strict=True))

    def check(self, notes: dict[str, int], trainer: dict[str, Any], adapter: dict[str, Any]) -> str:
        """The reference, and how much answers of each kind count: equation 8 of the paper wants 1:1 to 4:3."""
        if trainer["loss_type"] == "kto" and trainer["per_device_train_batch_size"] < 2:
            raise UserError(
                "trainer.per_device_train_batch_size=1: KTO needs another row in the batch, with whose answer each "
                "prompt is paired. Write 2 or more, or trainer.loss_type=apo_zero_unpaired"
            )
        wanted, unwanted = (notes.get(kind, 0) for kind in (DESIRABLE, UNDESIRABLE))
        ratio = trainer["desirable_weight"] * wanted / max(trainer["undesirable_weight"] * unwanted, 1)
        said = f"{wanted:,} {DESIRABLE} count {ratio:.2f} times as much as {unwanted:,} that are undesirable"
        if not 0.99 <= ratio <= 1.34:
            weight = trainer["undesirable_weight"] * unwanted / max(wanted, 1)
            said += f" (the paper wants 1 to 1.33: trainer.desirable_weight={weight:.3g} to {weight * 1.33:.3g})"
        return f"{super().check(notes, trainer, adapter)}; {said}"

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[Row]], Row]:
        """Answers one after the other, and each prompt with an answer of the row before."""
        score = self.scoring_collator(tokenizer)

        def collate(rows: list[Row]) -> Row:
            crossed = padded(_crossed(rows), tokenizer.pad_token_id)
            own = {name: value for name, value in score(rows).items() if name != "answers"}
            return {**own, **{f"KL_{name}": value for name, value in crossed.items()}}

        return collate

    def scoring_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[Row]], Row]:
        """Answers one after the other."""
        import torch

        def collate(rows: list[Row]) -> Row:
            columns = {
                name: [part for row in rows for part in sequences(row, name)] for name in ("input_ids", "labels")
            }
            wanted = torch.tensor([bool(each) for row in rows for each in row["wanted"]])
            batch = padded(columns, tokenizer.pad_token_id) | {"label": wanted}
            batch["answers"] = torch.tensor(len(rows[0]["wanted"]))
            if "reference" in rows[0]:
                batch["ref_logps"] = torch.tensor([float(said) for row in rows for said in row["reference"]])
            return batch

        return collate

    def weight(self, batch: Row) -> int:
        """Answers."""
        return len(batch["input_ids"])

    def outcomes(self, logits: torch.Tensor, batch: Row) -> tuple[Any, Any]:
        """The reward of each answer, and whether it is wanted."""
        return logits, batch["label"]

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Of the rewards of answers of both kinds."""
        return ("roc_auc", "label_margin")

    def example(self, columns: dict[str, str]) -> list[Row]:
        """Answers of both kinds, single ones unless the columns of pairs are named."""
        if {"chosen", "rejected"} & set(columns):
            return super().example(columns)
        names = {role: columns.get(role, role) for role in ("prompt", "completion", "label")}
        texts = (("What is it?", "It is a cat.", True), ("Who sings?", "No idea.", False))
        return [dict(zip(names.values(), row, strict=True)) for row in texts]


def _crossed(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Each prompt with the answer in its place of the row before, all of whose tokens count."""
    import numpy as np

    tokens, labels = ([part for row in rows for part in sequences(row, name)] for name in ("input_ids", "labels"))
    begins = [int(np.argmax(each != IGNORED)) for each in labels]
    answers = [each[begin:] for each, begin in zip(tokens, begins)]
    said = [each[begin:] for each, begin in zip(labels, begins)]
    prompts = [each[:begin] for each, begin in zip(tokens, begins)]
    unsaid = [each[:begin] for each, begin in zip(labels, begins)]
    # The answers of one row are to one prompt, so all of them are passed over.
    back = len(rows[0]["wanted"])
    return {
        "input_ids": [np.append(prompt, answers[at - back]) for at, prompt in enumerate(prompts)],
        "labels": [np.append(masked, said[at - back]) for at, masked in enumerate(unsaid)],
    }
