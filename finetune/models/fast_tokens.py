"""A faster byte-pair encoder, where `fastokens` is installed: held against the tokenizer's own ids, else left alone.

Knows texts and ids, and nothing of what they are for.
"""

import itertools
import logging
import os
from array import array
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from transformers import PreTrainedTokenizerBase

from finetune.errors import UserError

IDS = "i"
"""The type code of arrays of ids: 32 bits."""
Ids: TypeAlias = "array[int]"
"""The ids of a text, four bytes each: a list has eight, and a number behind each."""
Encode = Callable[[Sequence[str]], list[Ids]]
HELD, SAMPLED = 256, 4
"""Texts that are compared before the encoder is trusted, and of every later batch."""
log = logging.getLogger(__name__)


def encode(tokenizer: PreTrainedTokenizerBase) -> Encode:
    """From rendered texts, which hold their own special tokens, to ids: the fastest way that gives the same ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda texts: [array(IDS, ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    backend.no_truncation()
    backend.no_padding()
    fast = _installed(backend)
    return Held(fast, own(backend)) if fast else own(backend)


def own(backend: Any) -> Encode:
    """The tokenizer's own; without offsets, which nothing here needs: a quarter less time than the usual call."""
    return lambda texts: [
        array(IDS, each.ids) for each in backend.encode_batch_fast(list(texts), add_special_tokens=False)
    ]


class Held:
    """A fast encoder beside the one it must agree with."""

    used_by: ClassVar[int] = 0
    """The process whose threads it has."""

    def __init__(self, fast: Encode, own: Encode) -> None:
        self.fast, self.own = fast, own
        self.compared = 0

    def _is_safe(self) -> bool:
        """Its threads do not survive a fork, so a child of a process that used it must not."""
        Held.used_by = Held.used_by or os.getpid()
        return Held.used_by == os.getpid()

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of texts.

        Raises:
            UserError: the encoders differ after they had agreed, so ids that were made before are in doubt.
        """
        if not self._is_safe():
            return self.own(texts)
        found = self.fast(texts)
        step = max(1, len(texts) // SAMPLED) if self.compared >= HELD else 1
        sample = texts[::step][:HELD]
        if self.own(sample) != found[::step][:HELD]:
            self._differ()
            return self.own(texts)
        self.compared += len(sample)
        return found

    def _differ(self) -> None:
        if self.compared:
            raise UserError("fastokens gives other ids than the tokenizer's own encoder: pip uninstall fastokens")
        log.warning("fastokens gives other ids than the tokenizer's own encoder, which is used instead")
        self.fast = self.own


def _installed(backend: Any) -> Encode | None:
    """fastokens with the tokenizer's rules, where it is installed and knows them."""
    try:
        import fastokens

        fast = fastokens.Tokenizer.from_json_str(backend.to_str())
    except (ImportError, ValueError, RuntimeError):
        return None

    def encode(texts: Sequence[str]) -> list[Ids]:
        flat, offsets = fast.encode_batch_flat(list(texts), add_special_tokens=False)
        ids, ends = array(IDS, flat), np.frombuffer(offsets, np.uint64).tolist()
        return [ids[begin:end] for begin, end in itertools.pairwise(ends)]

    return encode
