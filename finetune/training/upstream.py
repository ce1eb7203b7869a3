"""What the libraries only warn of, and what would change the result: an error here, in our words.

Each is matched by a part of its text that is stable; a test holds every one of them against the installed versions.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from finetune.errors import UserError


@dataclass(frozen=True)
class Warned:
    """A warning, and what it means for a run."""

    library: str
    part: str
    """Of its text."""
    means: str


REGISTRY = (
    Warned("peft", "Found missing adapter keys", "the adapter's file lacks weights, and a part would stay as it was "
           "made. It is damaged, or of another method or base"),
    Warned("peft", "LoRA tensor(s) have invalid shape", "the adapter's file is of another base or rank"),
    Warned("trl", "does not include the assistant turn's end-of-turn token", "the model would never learn to stop. "
           "Write a tokenizer.chat_template whose generation block holds the end-of-turn token"),
    Warned("trl", "The tokenized prompt is not a prefix", "the wrong tokens would carry the loss. Write a "
           "tokenizer.chat_template whose turns begin with a special token"),
    Warned("trl", "with the 'wrapped' packing strategy", "rows would see each other. Write packing_strategy=bfd"),
    Warned("transformers", "do not match the ones in the `trainer_state.json`", ""),
    Warned("transformers", "early stopping required metric_for_best_model", "early stopping would be off. Write "
           "trainer.metric_for_best_model as a metric that evaluation reports"),
    Warned("transformers", "Could not locate the best model", "the last model would stand for the best one"),
    Warned("transformers", "right-padding was detected", "answers would be generated after padding. Write "
           "tokenizer.padding_side=left"),
)  # fmt: skip
"""One whose meaning is empty is looked at elsewhere, and better: it is muted."""


@contextmanager
def strict() -> Iterator[None]:
    """Turn them into errors while this lasts.

    Raises:
        UserError: one of them was given.
    """
    with warnings.catch_warnings(), ExitStack() as held:
        shown = warnings.showwarning

        def show(message: Warning | str, *where: object, **more: object) -> None:
            if not _refused(str(message)):
                shown(message, *where, **more)  # type: ignore[arg-type]

        for each in REGISTRY:
            # "Once" per place is how Python shows a warning; a second run of a process must hear it again.
            warnings.filterwarnings("always", message=f"(?s).*{re.escape(each.part)}")
        warnings.showwarning = show  # type: ignore[assignment]
        for library in sorted({each.library for each in REGISTRY}):
            held.enter_context(_heard(library))
        yield


@contextmanager
def _heard(library: str) -> Iterator[None]:
    """Listen to a library's log, whose warnings the console leaves out."""
    logger, listener = logging.getLogger(library), _Listener(logging.WARNING)
    level, others = logger.level, [(handler, handler.level) for handler in logger.handlers]
    for handler, own in others:
        handler.setLevel(max(own, level))
    logger.setLevel(min(level or logging.WARNING, logging.WARNING))
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        for handler, own in others:
            handler.setLevel(own)


class _Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Refuse."""
        _refused(record.getMessage())


def _refused(text: str) -> bool:
    """Whether the text is in the registry and means nothing.

    Raises:
        UserError: it is, and means something.
    """
    found = next((each for each in REGISTRY if each.part in text), None)
    if found is None:
        return False
    if found.means:
        raise UserError(f"{found.library} warns: {' '.join(text.split())[:200]}. Here that is an error: {found.means}")
    return True
