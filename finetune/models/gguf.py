"""A GGUF file as a folder that `from_pretrained` reads: bf16 safetensors, tokenizer, generation config.

Converted once for each content and kept in a cache. Knows the file and the cache it is given; knows nothing of
recipes, of where GGUF files come from, or of what the model is for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from finetune.errors import FinetuneError, MissingExtra, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HASH_DIGITS = 12
PROBE = "The capital of France is Paris.\n\n\t1234567890  naïve 東京 🙂 <|im_start|>user\nHi<|im_end|></s>"
log = logging.getLogger(__name__)


def converted(gguf: Path, cache: Path) -> Path:
    """The folder with the converted file, made where it is not there yet.

    Safe to call from several processes at once: a folder appears whole or not at all, and the first one stays.

    Raises:
        MissingExtra: the package that reads GGUF files is not installed.
        UserError: the file cannot be read, is of an unknown architecture, or lacks weights.
    """
    target = cache / f"{gguf.stem}-{_sha256(gguf)[:HASH_DIGITS]}"
    if _is_complete(target):
        return target
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra(package="gguf", extra="gguf")
    log.info("converting %s to bf16 safetensors in %s (once)", gguf.name, target)
    staging = target.with_name(f".{target.name}-{uuid4().hex}")
    try:
        _convert(gguf, staging)
        _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_complete(folder: Path) -> bool:
    """Whether nobody took files out of the folder; an unfinished conversion never has its name."""
    has_weights = any(folder.glob("*.safetensors"))
    return has_weights and (folder / "config.json").is_file() and (folder / "tokenizer_config.json").is_file()


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = _model(gguf)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{gguf}: cannot be converted: {type(error).__name__}: {reason}") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _check_same(tokenizer, AutoTokenizer.from_pretrained(folder))


def _model(gguf: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        # Without it transformers keeps GGUF blocks packed where it can, and such a model refuses to be saved.
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    model, info = loaded
    # One part of a split GGUF loads too, with the weights of the other parts drawn at random.
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(f"{gguf}: weights of its architecture are missing ({len(missing)}), such as {missing[0]}")
    return model


def _check_same(read: PreTrainedTokenizerBase, saved: PreTrainedTokenizerBase) -> None:
    """A tokenizer that came out different would train and serve on other ids without any error."""
    differences = [
        name
        for name, before, after in (
            ("token ids", read(PROBE)["input_ids"], saved(PROBE)["input_ids"]),
            ("vocabulary", read.get_vocab(), saved.get_vocab()),
            ("special tokens", read.special_tokens_map, saved.special_tokens_map),
            ("chat template", read.chat_template, saved.chat_template),
        )
        if before != after
    ]
    if differences:
        raise FinetuneError(f"the converted tokenizer differs from the GGUF file's: {', '.join(differences)}")


def _publish(staging: Path, target: Path) -> None:
    """Rename into place; where another process was faster, its folder is as good."""
    try:
        staging.rename(target)
    except OSError:
        if _is_complete(target):
            return
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
