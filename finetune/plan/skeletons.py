"""Skeletons of the run's model: names and shapes without weights, with the adapter of the recipe or of another option.

Built when first asked for: an architecture and PEFT take seconds to import.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from finetune.config import origin, recipes
from finetune.config.schema import Config
from finetune.data.prepare import Prepared


class Skeletons:
    """The model on the meta device."""

    def __init__(self, config: Config, prepared: Prepared, fresh: Sequence[str] = ()) -> None:
        """Take the names of the heads that the base does not bring: they are trained whole, and not adapted."""
        self.config, self.prepared, self.fresh = config, prepared, tuple(fresh)

    def base(self) -> Any:
        """Without an adapter, anew each time: an adapter changes what it is put on.

        Raises:
            UserError: the architecture has no head for the task.
        """
        from finetune.models import model

        return model.skeleton(self.prepared.model_config, self.config.task, self.config.model)

    def adapted(self, adapter: dict[str, Any]) -> Any:
        """With an adapter.

        Raises:
            UserError: it does not fit the architecture.
        """
        from finetune.models import adapter as adapters

        # What its weights begin with has no shape, and some ways of beginning take the base apart.
        known = {name: value for name, value in adapter.items() if name != "init_lora_weights"}
        return adapters.apply(self.base(), known, self.config.task.peft_type, self.fresh)

    @cached_property
    def own(self) -> Any:
        """With the adapter of the recipe."""
        return self.adapted(self.config.adapter)

    def of_option(self, option: str) -> Any:
        """With the adapter of a shipped option that stands for a method: full, lora, qlora."""
        if option == "full":
            return self.base()
        # qlora is lora over another base, and a skeleton has no base.
        file = recipes.file_of("adapter/lora")
        assert file is not None
        return self.adapted(origin.values(file))
