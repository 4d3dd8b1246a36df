"""Still pictures and animations through Pillow: files to RGB arrays; knows nothing of videos or of the model."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, ImageSequence, UnidentifiedImageError

from videollava_cli.errors import MediaError
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.reader.limits import check_size
from videollava_cli.reader.shrink import Shrink
from videollava_cli.sampling import Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
ANIMATED_FORMATS = ("AVIF", "GIF", "PNG", "WEBP")
MAX_PIXELS = Pillow.MAX_IMAGE_PIXELS or 89_478_485  # Pillow's own limit against decompression bombs
# What Pillow's plugins are seen to raise over damaged files.
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    RuntimeError,
    ZeroDivisionError,
    struct.error,
    Pillow.DecompressionBombError,
)
DEFAULT_DURATION_MS = 100  # of an animation's frame that names none, as browsers do


def probe_still(path: Path, name: str) -> bool:
    """Return whether the picture moves.

    Raises:
        MediaError: If Pillow cannot open it, or it is larger than Pillow's limit.
    """
    with _opened(path, name) as picture, _damage_told(name):
        return picture.format in ANIMATED_FORMATS and getattr(picture, "n_frames", 1) > 1


def num_still_pixels(path: Path, name: str) -> int:
    """Return how many pixels the picture has, as its header says.

    Raises:
        MediaError: If Pillow cannot open it, or it is larger than Pillow's limit.
    """
    with _opened(path, name) as picture:
        return picture.width * picture.height


def read_image(path: Path, name: str, shrink: Shrink) -> Medium:
    """Read a still picture, upright and over white where it is transparent.

    Raises:
        MediaError: If it is damaged.
    """
    with _opened(path, name) as picture:
        with _damage_told(name):
            rgb = _rgb(picture)
        return Medium(name, MediaKind.IMAGE, shrink(rgb)[None])


def read_animation(path: Path, name: str, sampling: Sampling, shrink: Shrink) -> Medium:
    """Read eight frames of a GIF, APNG, WebP or AVIF animation.

    Raises:
        MediaError: If it is damaged, or has no frame where one is wanted.
    """
    with _opened(path, name) as picture:
        seconds = list(_frame_times(picture, name, shrink))
        chosen = sampling.chosen(seconds)
        if not chosen:
            raise MediaError(sampling.complaint(name, seconds))
        shrunk = {index: shrink(rgb) for index, rgb in _chosen_frames(picture, name, set(chosen), shrink)}
    notices = tuple(sampling.notices(name, seconds))
    stamps = tuple(FrameStamp(index, seconds[index]) for index in chosen)
    return Medium(name, MediaKind.VIDEO, np.stack([shrunk[i] for i in chosen]), stamps, notices)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Pillow.Image]:
    """Open a picture; meanwhile what Pillow would warn of, such as damaged EXIF tags, stays off the terminal."""
    with warnings.catch_warnings(action="ignore"):
        with _damage_told(name):
            picture = Pillow.open(path, formats=FORMATS)
        with picture:
            check_size(name, picture.width, picture.height, MAX_PIXELS)
            yield picture


@contextmanager
def _damage_told(name: str) -> Iterator[None]:
    """Turn what Pillow raises over a damaged file into one line."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise MediaError(f"{name!r} looks like a picture, but is damaged or of an unknown kind") from error
    except DAMAGE as error:
        raise MediaError(f"cannot read {name!r}: {error}") from error
    except MemoryError as error:  # Pillow asks for as many bytes as a damaged length says
        raise MediaError(f"cannot read {name!r}: it is damaged, or larger than the memory") from error


def _shown_frames(picture: Pillow.Image, shrink: Shrink) -> Iterator[Pillow.Image]:
    """Yield the frames that viewers show, without the poster that an APNG may hold for those that cannot."""
    num_posters = 1 if getattr(picture, "default_image", False) else 0
    for frame in islice(ImageSequence.Iterator(picture), num_posters, None):
        shrink.check()
        yield frame


def _frame_times(picture: Pillow.Image, name: str, shrink: Shrink) -> Iterator[float]:
    """Yield the time at which each frame appears, in seconds."""
    elapsed_ms = 0.0
    with _damage_told(name):
        for frame in _shown_frames(picture, shrink):
            yield elapsed_ms / 1000
            frame.load()  # WebP and AVIF know a frame's duration only then
            elapsed_ms += float(frame.info.get("duration") or DEFAULT_DURATION_MS)


def _chosen_frames(
    picture: Pillow.Image, name: str, chosen: set[int], shrink: Shrink
) -> Iterator[tuple[int, "NDArray[np.uint8]"]]:
    """Yield the index and RGB of some frames."""
    with _damage_told(name):
        for index, frame in enumerate(_shown_frames(picture, shrink)):
            if index in chosen:
                yield index, _rgb(frame)


def _rgb(picture: Pillow.Image) -> "NDArray[np.uint8]":
    """Return a picture as uint8 RGB, (H, W, 3): EXIF orientation applied, transparency over white."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        upright = _to_8_bit(upright)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        white = Pillow.new("RGBA", layer.size, "white")
        upright = Pillow.alpha_composite(white, layer)
    return np.array(upright.convert("RGB"))  # a copy, since torch wants writable arrays


def _to_8_bit(picture: Pillow.Image) -> Pillow.Image:
    """Scale a 16-bit, 32-bit or float picture to 8 bits; Pillow's own conversion clips instead."""
    values = np.nan_to_num(np.asarray(picture).astype(np.float64), posinf=0, neginf=0)
    full = 65535.0 if picture.mode.startswith("I") else max(float(values.max()), 1.0)
    return Pillow.fromarray(np.clip(values * (255.0 / full) + 0.5, 0, 255).astype(np.uint8))
