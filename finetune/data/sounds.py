"""Sounds: from the bytes of a file to samples at the rate that a model hears, and what was done on the way.

Samples are kept as 16-bit integers, as most files have them: at 16 kHz, 32 kB a second. Knows libsndfile and soxr, and
what a feature extractor says of itself. Knows no columns and no labels.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.config.task import NOTES, Media, RowError
from finetune.data import media
from finetune.data.media import File
from finetune.data.shards import Array
from finetune.errors import MissingExtra, UserError

try:
    import soundfile
    import soxr
except ImportError as missing:
    raise MissingExtra(str(missing.name), "audio") from None

FULL = 1 << 15
"""What a sample of 16 bits is a share of."""
FRAME = 0.01
"""Seconds from a frame to the next, of extractors that say how many frames they make (AST)."""


@dataclass(frozen=True)
class Sound:
    """Samples of one channel, int16, at the rate asked for."""

    samples: Array
    rate: int
    """At which it was recorded."""
    notes: list[str]
    """What was done to it that is worth counting."""


def decode(file: File, rate: int) -> Sound:
    """The sound of a file: channels mixed to one, resampled where it was recorded at another rate.

    Raises:
        RowError: it cannot be decoded, or there is nothing to hear.
    """
    try:
        found, recorded = soundfile.read(io.BytesIO(file.content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].partition(": ")[2] or type(error).__name__
        raise RowError(f"the file is no sound that libsndfile knows ({reason.strip()})", file.name) from None
    _check(found, file)
    one, notes = found.mean(axis=1), []
    if found.shape[1] > 1:
        notes.append(f"sounds of {found.shape[1]} channels, mixed to one")
    if recorded != rate:
        one = soxr.resample(one, recorded, rate)
        notes.append(f"sounds of {recorded:,} Hz, resampled to {rate:,}")
    samples = (one * FULL).round().clip(-FULL, FULL - 1).astype(np.int16)
    if not samples.any():
        raise RowError("the sound is silent", file.name)
    return Sound(samples, int(recorded), notes)


def _check(found: Array, file: File) -> None:
    if not found.size:
        raise RowError("the sound is empty", file.name)
    if not np.isfinite(found).all():
        raise RowError("the sound holds values that are no numbers", file.name)


def reader(column: str, rate: int, shortest: float) -> Callable[[dict[str, Any], int], dict[str, Any]]:
    """From a raw row and its number to what is kept of its sound: samples, seconds, both rates, and notes.

    Args:
        shortest: seconds; a shorter sound drops its row.
    """

    def read(row: dict[str, Any], index: int) -> dict[str, Any]:
        try:
            file = media.read(row[column], "sound")
        except UserError as error:
            raise UserError(f"row {index}: {column} {error}") from None
        sound = decode(file, rate)
        seconds = len(sound.samples) / rate
        if seconds < shortest:
            raise RowError(f"the sound is shorter than {shortest:g} s", file.name)
        rates = {"rate": sound.rate, "model_rate": rate}
        return {"audio": sound.samples, "seconds": seconds, **rates, NOTES: sound.notes}

    return read


def shown(row: dict[str, Any]) -> Media:
    """A prepared row to listen to: what the model hears, at the rate it hears."""
    samples, rate, file = np.asarray(row["audio"], np.int16), int(row["model_rate"]), io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    words = f"a sound of {len(samples) / rate:.2f} s, recorded at {int(row['rate']):,} Hz"
    return Media(words, "audio/wav", file.getvalue())


def extractor_of(processor: Any) -> Any:
    """The part of a processor that hears."""
    return getattr(processor, "feature_extractor", processor)


def rate_of(processor: Any) -> int:
    """Samples a second that the model hears."""
    return int(extractor_of(processor).sampling_rate)


def limit(processor: Any, seconds: float, key: str) -> int:
    """Samples a sound may have.

    Args:
        seconds: what the recipe allows, by the key of that name.
    Raises:
        UserError: that is more than the model hears.
    """
    rate, most = rate_of(processor), heard(processor)
    if most is not None and seconds > most:
        raise UserError(f"{key}={seconds:g}: the model hears {most:g} seconds. Write at most that")
    return int(seconds * rate)


def heard(processor: Any) -> float | None:
    """Seconds behind which an extractor cuts a sound off in silence; None where it hears all of it."""
    extractor = extractor_of(processor)
    if hasattr(extractor, "n_samples"):
        return float(extractor.n_samples / extractor.sampling_rate)
    frames = getattr(extractor, "max_length", None)
    return frames * FRAME if isinstance(frames, int) else None


def features(processor: Any, sounds: Sequence[Array]) -> dict[str, Any]:
    """What the model takes, a row each: waves or spectra, padded where they have lengths of their own."""
    import torch

    extractor = extractor_of(processor)
    waves = [np.asarray(samples, np.float32) / FULL for samples in sounds]
    padding = inspect.signature(type(extractor).__call__).parameters.get("padding")
    pads = {"padding": True} if padding and padding.default is False else {}
    with torch.autocast("cpu", enabled=False):  # Whisper's spectra are made by torch, and would be rounded
        return dict(extractor(waves, sampling_rate=extractor.sampling_rate, return_tensors="pt", **pads))


def asked(item: Any, column: str, rate: int) -> Array:
    """The samples of what a user asks about: the name of a file, or a row with the column.

    Raises:
        UserError: it is something else, or cannot be heard.
    """
    try:
        return decode(media.read(item.get(column) if isinstance(item, dict) else item, "sound"), rate).samples
    except (RowError, UserError) as error:
        raise UserError(f"{error}; write the name of a file, or a row with {column}") from None


def tone(hertz: float, seconds: float = 0.5, rate: int = 16000) -> bytes:
    """A sine, as the bytes of a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate) / 2, rate, format="WAV")
    return file.getvalue()
