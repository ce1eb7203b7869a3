"""Rows that hold several texts: their tokens end to end, how many each text has, and the batches made of them.

Knows token ids and tokenizers; knows no role of a text and no loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from finetune.config.task import NOTES
from finetune.data.shards import Array

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Item = tuple[list[str], Any]
"""The texts of a row, and its label, its score, a list of labels, or None."""
LENGTHS = "texts"
"""The column of how many tokens each text of a row has."""
BLOCK = 1000
PAD = -1
"""Fills up what is put together later; no token has this id."""


def rows(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, limit: int, special: bool) -> list[dict[str, Any]]:
    """The encoded rows; a text of more tokens than the limit is cut, and counted, as is a pair that will be cut.

    Args:
        special: whether special tokens are put around each text, or around pairs of the first and each other one.
    """
    flat = list(chain.from_iterable(texts for texts, _ in items))
    encoded, is_cut = _tokens(flat, tokenizer, limit, special)
    room = limit - tokenizer.num_special_tokens_to_add(pair=True)
    found, start = [], 0
    for texts, label in items:
        part = slice(start, start := start + len(texts))
        joined = {name: list(chain.from_iterable(values[part])) for name, values in encoded.items()}
        known = {} if label is None else {"labels": label}
        lengths = list(map(len, encoded["input_ids"][part]))
        is_pair_cut = not special and lengths[0] + max(lengths[1:]) > room
        found.append({**joined, LENGTHS: lengths, **known, NOTES: ["truncated"] * (is_pair_cut or any(is_cut[part]))})
    return found


def _tokens(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, limit: int, special: bool
) -> tuple[dict[str, list[list[int]]], list[bool]]:
    """The columns of each text, and whether it was cut."""
    found = tokenizer(texts, add_special_tokens=special, verbose=False)
    names = [name for name in found if name == "input_ids" or (special and name != "attention_mask")]
    columns = {name: found[name] for name in names}
    is_cut = [len(ids) > limit for ids in columns["input_ids"]]
    if any(is_cut):
        long = [text for text, cut in zip(texts, is_cut, strict=True) if cut]
        shorter = tokenizer(long, add_special_tokens=special, truncation=True, max_length=limit)
        for number, at in enumerate(np.flatnonzero(is_cut)):
            for name in names:
                columns[name][at] = shorter[name][number]
    return columns, is_cut


def apart(row: dict[str, Any], name: str = "input_ids") -> Iterator[list[int]]:
    """A column of a row, text by text."""
    edges = [0, *accumulate(int(length) for length in row[LENGTHS])]
    values = np.asarray(row[name]).tolist()
    return (values[start:end] for start, end in pairwise(edges))


def identities(rows: Any) -> list[list[int]]:
    """A number for each text of each row, the same for the same tokens."""
    found = []
    for start in range(0, len(rows), BLOCK):
        for row in rows.__getitems__(range(start, min(start + BLOCK, len(rows)))):
            edges = np.cumsum(row[LENGTHS])[:-1]
            found.append([xxhash.xxh3_64_intdigest(ids.tobytes()) for ids in np.split(row["input_ids"], edges)])
    return found


def each_padded(batch: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """`text_0_input_ids`, …: (rows, tokens of the longest) for each text of a row; `label` where rows have one."""
    import torch

    names = [name for name in batch[0] if name not in (LENGTHS, "labels")]
    texts = [{name: list(apart(row, name)) for name in names} for row in batch]
    found: dict[str, torch.Tensor] = {}
    for number in range(len(batch[0][LENGTHS])):
        side = [{name: row[name][number] for name in names} for row in texts]
        found |= {f"text_{number}_{key}": each for key, each in tokenizer.pad(side, return_tensors="pt").items()}
    labels = [float(row["labels"]) for row in batch if "labels" in row]
    return found | ({"label": torch.tensor(labels)} if labels else {})


def sides(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """The inputs of each text of the rows of a batch."""
    count = 1 + max(int(name.split("_")[1]) for name in batch if name.startswith("text_"))
    prefixes = [f"text_{number}_" for number in range(count)]
    return [{name.removeprefix(each): batch[name] for name in batch if name.startswith(each)} for each in prefixes]


def candidates_padded(batch: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The first text of each row and the others, (rows, tokens) and (rows, others, tokens), filled up with `PAD`.

    `label`, (rows, others), holds what is known of each of the others; nan where there is no other.
    """
    import torch

    texts = [list(apart(row)) for row in batch]
    most, longest = (max(len(row) - 1 for row in texts), max(len(ids) for row in texts for ids in row[1:]))
    queries = np.full((len(batch), max(len(row[0]) for row in texts)), PAD, np.int64)
    others = np.full((len(batch), most, longest), PAD, np.int64)
    for at, (query, *documents) in enumerate(texts):
        queries[at, : len(query)] = query
        for place, ids in enumerate(documents):
            others[at, place, : len(ids)] = ids
    found = {"query": torch.from_numpy(queries), "documents": torch.from_numpy(others)}
    return found | ({"label": torch.from_numpy(_labels(batch, most))} if "labels" in batch[0] else {})


def _labels(batch: Sequence[dict[str, Any]], most: int) -> Array:
    found = np.full((len(batch), most), np.nan, np.float32)
    for at, row in enumerate(batch):
        known = np.atleast_1d(np.asarray(row["labels"], np.float32))
        found[at, : len(known)] = known
    return found
