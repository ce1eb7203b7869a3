"""TRL's trainers where one of them insists on what our rows make unnecessary."""

from typing import Any

from trl.trainer.kto_trainer import KTOTrainer


class ShuffledKTO(KTOTrainer):
    """KTO in any order of rows.

    TRL pairs each prompt with its neighbour's answer when it prepares a data set, and so keeps to its order. Here the
    collator pairs the rows of a batch, whichever they are.
    """

    def __init__(self, *, args: Any, **given: Any) -> None:
        wanted, args.train_sampling_strategy = args.train_sampling_strategy, "sequential"
        super().__init__(args=args, **given)
        args.train_sampling_strategy = wanted
