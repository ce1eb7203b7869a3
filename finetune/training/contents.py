"""The trainer's save hooks, ours: what a checkpoint holds. When one is saved, and how it is kept, knows `saving`.

What upstream leaves out is kept here: the sums of a log window, the trainer's own running metrics, the seconds
trained, the state of callbacks, the rows' position. Weights and adapters keep Hugging Face's own file names.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

from transformers.trainer_callback import ExportableState

from finetune.models import adapter, modules
from finetune.training import generators, ranks, sharding, state

SUMS = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "_total_train_tokens", "_metrics",
        "_stored_metrics")  # fmt: skip
"""What trainers add up between two log lines, wherever one of them has it."""

BESIDE = "beside"
"""The file of the weights that lie around the transformer."""


class Contents:
    """Mixed in before a trainer class: every file of a checkpoint but its manifest."""

    seconds_before = 0.0
    """Trained before this process began."""
    begun = 0.0

    def _write_model(self: Any, staging: Path) -> None:
        self.save_model(str(staging), _internal_call=True)

    def _write_optimizer(self: Any, staging: Path) -> None:
        self._save_optimizer_and_scheduler(str(staging))
        self._save_scaler(str(staging))

    def _write_own(self: Any, staging: Path) -> None:
        """What each rank keeps for itself, and the first one of all of them."""
        own = staging / f"rank-{ranks.rank()}"
        own.mkdir()
        state.save(generators.states(), own, "generators")
        state.save(self._sums(), own, "sums")
        if ranks.is_first():
            self._keep_callbacks()
            self.state.save_to_json(str(staging / "trainer_state.json"))

    def save_model(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As upstream's; of shares, put together by all ranks first."""
        if sharding.is_sharded(self):
            self._save(output_dir or self.args.output_dir, sharding.weights(self))
        else:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]

    def _save(self: Any, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights, config and tokenizer; never the pickled training arguments."""
        if not self.args.should_save and not self.is_distributed_loading_by_transformers:
            return
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        inner = modules.core(model)
        # Under the names the weights have in memory: upstream reads a checkpoint by those, and writes by the Hub's.
        whole = partial(inner.save_pretrained, save_original_format=False)
        save = partial(adapter.save, inner) if adapter.is_adapted(model) else whole
        save(str(output_dir), state_dict=state_dict, is_main_process=self.args.should_save)
        if not self.args.should_save:
            return
        if adapter.is_adapted(model):
            state.save(adapter.state(model, state_dict), Path(str(output_dir)), "trained")
        elif others := modules.beside(model):
            state.save(others, Path(str(output_dir)), BESIDE)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)
        (Path(str(output_dir)) / "README.md").unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self: Any, output_dir: str) -> None:
        kept = sharding.optimizer(self)
        if self.args.should_save:
            state.save(kept, Path(output_dir), "optimizer")
            state.save(self.lr_scheduler.state_dict(), Path(output_dir), "scheduler")

    def _save_scaler(self: Any, output_dir: str) -> None:
        if self.args.should_save and getattr(self.accelerator, "scaler", None) is not None:
            state.save(self.accelerator.scaler.state_dict(), Path(output_dir), "scaler")

    def _sums(self: Any) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in SUMS if hasattr(self, name)}
        return {**kept, "seconds": self.seconds_before + time.time() - self.begun}

    def _keep_callbacks(self: Any) -> None:
        holders = [*self.callback_handler.callbacks, self.control]
        self.state.stateful_callbacks = {
            type(each).__name__: each.state() for each in holders if isinstance(each, ExportableState)
        }
