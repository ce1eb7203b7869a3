"""Images: from the bytes of a file to pixels as transformers' own pipelines make them, and what was done on the way.

Knows Pillow. Knows no columns, no labels and no processor.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from finetune.config.task import Media, RowError
from finetune.data.media import File
from finetune.errors import MissingExtra

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError:
    raise MissingExtra("pillow", "vision") from None

ORIENTATION = 0x0112
"""The tag of EXIF that says how the camera was held."""
LARGE = 320
"""Pixels of the longer side of an image that is shown."""
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of more than eight bits a channel, which Pillow cuts off at 255 and does not scale."""


def pixels(content: bytes, mode: str = "RGB") -> Image.Image:
    """The image, upright and in the mode wanted, as `transformers.image_utils.load_image` makes it.

    Args:
        mode: of Pillow: RGB, or L for grey.
    Raises:
        OSError, ValueError, SyntaxError: it cannot be decoded.
    """
    with Image.open(io.BytesIO(content)) as opened:
        upright: Any = ImageOps.exif_transpose(opened)
        found = _scaled(upright) if upright.mode in DEEP else upright
        return found.convert(mode)


def _scaled(image: Image.Image) -> Image.Image:
    """Eight bits of more: 16 bits by their upper half, others between the darkest and the brightest pixel."""
    values = np.asarray(image, np.float64)
    if image.mode.startswith("I") and values.min() >= 0 and values.max() < 1 << 16:
        return Image.fromarray((values / 257).round().astype(np.uint8))
    least, most = values.min(), values.max()
    return Image.fromarray(((values - least) / max(most - least, 1e-12) * 255).round().astype(np.uint8))


def check(file: File, mode: str = "RGB") -> tuple[int, int, list[str]]:
    """Decode an image: its width, its height, and what is done to it that is worth counting.

    Raises:
        RowError: it cannot be decoded, or has more pixels than Pillow thinks harmless.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            found = pixels(file.content, mode)
        with Image.open(io.BytesIO(file.content)) as opened:
            return *found.size, list(_done(opened, mode))
    except UnidentifiedImageError:
        raise RowError("the file is no image that Pillow knows", file.name) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise RowError(f"the image has more than {Image.MAX_IMAGE_PIXELS:,} pixels", file.name) from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RowError(f"the image cannot be decoded ({reason})", file.name) from None


def _done(opened: Image.Image, mode: str) -> Iterator[str]:
    """What becomes of an image on its way to pixels."""
    if opened.mode in DEEP:
        yield "images of more than 8 bits, scaled to 8"
    elif opened.mode != mode:
        yield f"{opened.mode} images, made {mode}"
    if opened.getexif().get(ORIENTATION, 1) != 1:
        yield "images turned upright"
    if getattr(opened, "n_frames", 1) > 1:
        yield "images of several frames, of which the first counts"


def shown(row: dict[str, Any]) -> Media:
    """A prepared row to look at: upright, and made smaller where it is large."""
    image, file = pixels(np.asarray(row["image"], np.uint8).tobytes()), io.BytesIO()
    image.thumbnail((LARGE, LARGE))
    image.save(file, "PNG")
    return Media(f"an image of {row['width']} × {row['height']} pixels", "image/png", file.getvalue())


def mirrored(image: Image.Image) -> Image.Image:
    """Left and right exchanged."""
    return ImageOps.mirror(image)


def plain(grey: int) -> bytes:
    """A small image of one grey, as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (grey,) * 3).save(file, "PNG")
    return file.getvalue()
