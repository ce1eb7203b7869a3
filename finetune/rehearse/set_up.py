"""What a rehearsal needs, made in a folder: a tiny model, its tokenizer, a few rows, and the config that uses them.

Knows which parts there are. How each is found or made is known in the modules beside it.
"""

import logging
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from finetune.config.schema import Config
from finetune.data.prepare import Prepared
from finetune.errors import UserError
from finetune.models.tokenizer import TOKENIZER, load
from finetune.plan.catalogue import refuse_failed
from finetune.plan.plan import Plan
from finetune.plan.planned import planned
from finetune.rehearse import model, processor, rows, tokenizer
from finetune.rehearse.model import Architecture
from finetune.rehearse.rows import COUNTS, Rows
from finetune.rehearse.shrink import Replaced, shrunk

log = logging.getLogger(__name__)


def set_up(
    config: Config, folder: Path, model_type: str | None
) -> tuple[Config, list[Replaced], tuple[Plan, Prepared]]:
    """The config of the rehearsal, what it replaces, and its plan; with more rows where few do not do.

    Raises:
        UserError: the recipe cannot work as it is, or what its model is is not known.
    """
    architecture = model.find(config.model, model_type)
    for count in COUNTS:
        found = rows.find(config, count, folder / f"first-{count}")
        small, replaced = _made(config, architecture, found, folder / str(count))
        try:
            plan, prepared = planned(small)
            refuse_failed(plan.checks)
            return small, replaced, (plan, prepared)
        except UserError as error:
            if not found.are_real or count == COUNTS[-1]:
                raise
            log.info("%d rows do not do: %s", count, error)
    raise AssertionError("the last count returns or raises")


def _made(config: Config, architecture: Architecture, found: Rows, folder: Path) -> tuple[Config, list[Replaced]]:
    base = folder / "base"
    words, said = _processing(config, architecture, found)
    words.save_pretrained(base)
    name, weights = model.build(architecture, words, config.task, base)
    data = found.saved(folder / "rows", config.dataset)
    small, others = shrunk(config, base, data, folder.parent / "runs")
    replaced = [
        Replaced(f"model {config.model.path}", f"{name} of {weights:,} random weights ({architecture.said})"),
        Replaced("its tokenizer" if config.task.processing_class == TOKENIZER else "its processor", said),
        Replaced(f"rows of {config.dataset.path}", found.said),
        *others,
    ]
    return small, replaced


def _processing(config: Config, architecture: Architecture, found: Rows) -> tuple[PreTrainedTokenizerBase, str]:
    """What turns raw inputs into the model's: its own, or one made for it, and which of them it is."""
    kind, trust = config.task.processing_class, config.model.trust_remote_code
    if kind == TOKENIZER:
        return _tokenizer(config, architecture, found)
    if architecture.source:
        own = load(config.tokenizer, architecture.source, trust, kind)
        return own, f"its own, {type(own).__name__}"
    if kind == processor.BOTH:
        words, said = _tokenizer(config, architecture, found)
        hears = processor.make(processor.HEARS, architecture.config)
        return processor.joined(hears, words, architecture.config), f"{type(hears).__name__}, and {said}"
    made = processor.make(kind, architecture.config)
    return made, f"{type(made).__name__} as transformers has it for {architecture.config.model_type}"


def _tokenizer(config: Config, architecture: Architecture, found: Rows) -> tuple[PreTrainedTokenizerBase, str]:
    """The model's own, or one made for the rows, and which of them it is."""
    family, wanted = architecture.family, config.tokenizer.pad_token
    if architecture.source:
        own = load(replace(config.tokenizer, chat_template=None), architecture.source, config.model.trust_remote_code)
        return own, f"its own, of {len(own):,} tokens"
    assert family is not None
    has_pairs = getattr(architecture.config, "type_vocab_size", 0) > 1
    words = tokenizer.train(
        replace(family, tokens=[*family.tokens, *([wanted] if wanted else [])]), found.texts(), has_pairs
    )
    return words, f"one of {len(words):,} tokens made for the rows, special tokens and template as {family.name} has"
