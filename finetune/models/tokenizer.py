"""The tokenizer as training and serving both use it: template, pad token, length; and other processing classes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.options import resolve
from finetune.config.schema import TokenizerConfig
from finetune.errors import MachineError, MissingExtra, UserError
from finetune.models.source import Source

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

TOKENIZER = "transformers.AutoTokenizer"
RESERVED_PADS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<unk>")
COUNTED_FROM_PAD = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text")
# Tokenizers without a limit of their own report a huge number.
UNLIMITED = 1_000_000
log = logging.getLogger(__name__)

# The threads of the tokenizers library do not survive a fork, and a child that used them would wait for ever; the
# library sees to it itself only where the variable is not set.
os.register_at_fork(after_in_child=lambda: os.environ.update(TOKENIZERS_PARALLELISM="false"))


def load(
    config: TokenizerConfig, source: Source, trust_remote_code: bool = False, kind: str = TOKENIZER
) -> PreTrainedTokenizerBase:
    """The tokenizer with a pad token and the chat template of the recipe; or an image processor or the like, as it is.

    Args:
        kind: the class that loads it.
    Raises:
        UserError: there is none at the path, or no token to pad with.
    """
    path = config.path or source.path
    revision = config.revision if config.path else source.revision
    name = "tokenizer" if kind == TOKENIZER else kind.rpartition(".")[2].removeprefix("Auto")
    try:
        tokenizer: PreTrainedTokenizerBase = resolve(kind).from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{name} {path} cannot be loaded: {_first_line(error)}") from None
    except TypeError:  # AutoProcessor, of a part without a file
        raise UserError(f"{name} {path} cannot be loaded: it lacks a part, such as a tokenizer") from None
    except ImportError as error:
        if "sentencepiece" in str(error).lower():
            raise MissingExtra("sentencepiece", "text") from None
        raise MachineError(f"{name} {path} cannot be loaded: {_first_line(error)}") from None
    if kind != TOKENIZER:
        return tokenizer
    if config.chat_template:
        tokenizer.chat_template = template(config)
    _pad(tokenizer, config.pad_token)
    return tokenizer


def max_length(config: TokenizerConfig, tokenizer: PreTrainedTokenizerBase, model: PretrainedConfig) -> int:
    """Tokens a row may have: what the recipe says, at most what the model has positions for.

    Raises:
        UserError: the recipe asks for more than the model's positions, or neither states a limit.
    """
    most = positions(model)
    limits = [limit for limit in (most, tokenizer.model_max_length) if limit and limit < UNLIMITED]
    if config.max_length is None and not limits:
        raise UserError("tokenizer.max_length must be set: neither the model nor its tokenizer states a limit")
    if config.max_length and most and config.max_length > most:
        raise UserError(f"tokenizer.max_length={config.max_length} is more than the model's {most} positions")
    return config.max_length or min(limits)


def max_length_of(tokenizer: PreTrainedTokenizerBase, model: PretrainedConfig) -> int:
    """Tokens a text may have by what the model and its tokenizer say alone."""
    return max_length(TokenizerConfig(), tokenizer, model)


def positions(model: PretrainedConfig) -> int | None:
    """Tokens the model has positions for; some count them from behind the pad token, and the first ones are lost."""
    text = model.get_text_config()
    found: int | None = getattr(text, "max_position_embeddings", getattr(text, "max_target_positions", None))
    if found and text.model_type in COUNTED_FROM_PAD:
        return found - (text.pad_token_id or 0) - 1
    return found


def template(config: TokenizerConfig) -> str | None:
    """The template as written, or the content of the file it names; None where the recipe has none.

    Raises:
        UserError: there is no such file.
    """
    text = config.chat_template
    if not text or "{" in text:
        return text
    file = Path(text).expanduser()
    if not file.is_file():
        raise UserError(f"tokenizer.chat_template={text}: there is no such file, and it is not a Jinja template")
    return file.read_text(encoding="utf-8")


def _pad(tokenizer: PreTrainedTokenizerBase, wanted: str | None) -> None:
    """Padding never ends a sequence by accident: a reserved token is preferred to the end-of-sequence token."""
    vocabulary = tokenizer.get_vocab()
    if wanted and wanted not in vocabulary:
        raise UserError(f"tokenizer.pad_token={wanted} is not in the vocabulary")
    if tokenizer.pad_token and not wanted:
        return
    chosen = wanted or next((token for token in RESERVED_PADS if token in vocabulary), tokenizer.eos_token)
    if chosen is None:
        raise UserError("the tokenizer has no token to pad with; write tokenizer.pad_token=…")
    log.info("the tokenizer has no pad token; %s pads", chosen)
    tokenizer.pad_token = chosen


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
