"""Packed rows to batches in which no document sees another: positions that begin again, and no attention mask.

transformers builds the mask between documents from the positions, and only where it is given no mask and no cache.
Kernels of variable length take one long row and its boundaries instead.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from finetune.config.task import IGNORED
from finetune.data.shards import Array

Row = dict[str, Any]
Collate = Callable[[list[Row]], dict[str, Any]]
VARIABLE_LENGTH = ("flash",)
"""How the names of attention implementations begin, or what they hold, that take boundaries of documents."""


def packed(attention: str, pad_token_id: int) -> Collate:
    """The collator for an attention implementation.

    Args:
        attention: as transformers names it.
    """
    if any(name in attention for name in VARIABLE_LENGTH):
        return flat
    return lambda rows: padded(rows, pad_token_id)


def flat(rows: Sequence[Row]) -> dict[str, Any]:
    """One row, (1, tokens), with the boundaries of its documents as kernels of variable length take them."""
    lengths = np.concatenate([row["seq_lengths"] for row in rows])
    begins = np.cumsum(lengths) - lengths
    labels = _end_to_end([row["labels"] for row in rows])
    labels[begins] = IGNORED
    boundaries = torch.from_numpy(np.append(begins, len(labels)).astype(np.int32))
    longest = int(lengths.max())
    return {
        "input_ids": _batch(_end_to_end([row["input_ids"] for row in rows])),
        "labels": _batch(labels),
        "position_ids": _batch(np.arange(len(labels)) - np.repeat(begins, lengths)),
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": longest,
        "max_length_k": longest,
        "seq_idx": _batch(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)),
    }


def padded(rows: Sequence[Row], pad_token_id: int) -> dict[str, torch.Tensor]:
    """A row each, (rows, tokens of the longest); what fills a row up is a document of its own."""
    shape = (len(rows), max(len(row["input_ids"]) for row in rows))
    ids, labels, positions = (np.empty(shape, np.int64) for _ in range(3))
    places = np.arange(shape[1])
    for at, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[at, length:], labels[at, length:] = pad_token_id, IGNORED
        lengths = np.append(row["seq_lengths"], shape[1] - length)
        begins = np.cumsum(lengths) - lengths
        ids[at, :length], labels[at, :length] = row["input_ids"], row["labels"]
        labels[at, begins[:-1]] = IGNORED
        np.subtract(places, np.repeat(begins, lengths), out=positions[at])
    return {
        name: torch.from_numpy(v) for name, v in zip(("input_ids", "labels", "position_ids"), (ids, labels, positions))
    }


def _end_to_end(parts: Sequence[Array]) -> Array:
    """Parts one after another; those that were cut from one array in this order are that array, and not copied."""
    whole: Any = parts[0].base
    is_owner = isinstance(whole, np.ndarray) and whole.flags.owndata
    if not is_owner or sum(part.nbytes for part in parts) != whole.nbytes:
        return np.concatenate(parts)
    ends = [_address(whole), *(_address(part) + part.nbytes for part in parts)]
    joined: Array = whole if all(_address(part) == end for part, end in zip(parts, ends)) else np.concatenate(parts)
    return joined


def _address(values: Array) -> int:
    found: int = values.__array_interface__["data"][0]
    return found


def _batch(values: Array) -> torch.Tensor:
    return torch.from_numpy(values)[None]
