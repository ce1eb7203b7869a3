"""Preference optimization: answers that are chosen over others; DPO and its relatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.tasks.comparison import Comparison

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class Preference(Comparison):
    """DPO, with every loss of TRL's as `trainer.loss_type`. The reference is the model as it was."""

    trainer_class: ClassVar[str] = "trl.DPOTrainer"
    loss: ClassVar[str] = "LogRatios"
    arguments_class: ClassVar[str] = "trl.DPOConfig"
    trainer_options: ClassVar[dict[str, Any]] = {"max_length": None}
    compares: ClassVar[bool] = True
    chunked: ClassVar[bool] = True

    name: str = "preference"


@dataclass(kw_only=True)
class WithoutReference(Comparison):
    """What ORPO and CPO share: the model is compared with nothing."""

    loss: ClassVar[str] = "Odds"

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[Any]], dict[str, Any]]:
        """Each side by itself."""
        from finetune.tasks.trl_loss import by_side

        stacked = super().collator(tokenizer)
        return lambda rows: by_side(stacked(rows))

    def scoring_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[Any]], dict[str, Any]]:
        """Both sides together."""
        return super().collator(tokenizer)


@dataclass(kw_only=True)
class ORPO(WithoutReference):
    """Odds ratio preference optimization (arXiv 2403.07691): supervised fine-tuning and preference in one loss."""

    trainer_class: ClassVar[str] = "trl.experimental.orpo.ORPOTrainer"
    arguments_class: ClassVar[str] = "trl.experimental.orpo.ORPOConfig"

    name: str = "orpo"


@dataclass(kw_only=True)
class CPO(WithoutReference):
    """Contrastive preference optimization (arXiv 2401.08417); SimPO (2405.14734) is `trainer.loss_type=simpo`."""

    trainer_class: ClassVar[str] = "trl.experimental.cpo.CPOTrainer"
    arguments_class: ClassVar[str] = "trl.experimental.cpo.CPOConfig"

    name: str = "cpo"
