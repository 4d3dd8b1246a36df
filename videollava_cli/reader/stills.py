"""Still pictures and animations through Pillow."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, ImageSequence, UnidentifiedImageError

from videollava_cli.errors import MediaError
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.reader import Reading, check_size
from videollava_cli.sampling import Sampling, Timeline

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


def probe_still(source: Path | Pillow.Image, name: str) -> tuple[Literal["still", "animation"], int, int]:
    """Return the form, width and height of a picture; raises MediaError if Pillow cannot open it or it is too large."""
    with _opened(source, name) as picture, _readable(name):
        is_animation = picture.format in ANIMATED_FORMATS and getattr(picture, "n_frames", 1) > 1
        return "animation" if is_animation else "still", picture.width, picture.height


def read_image(reading: Reading) -> Medium:
    """Read a still picture, upright and over white where it is transparent; raises MediaError if it is damaged."""
    name = reading.file.name
    with _opened(_source(reading), name) as picture:
        return Medium(name, MediaKind.IMAGE, reading.transform(read_rgb(picture, name))[None])


def read_animation(reading: Reading, sampling: Sampling) -> Medium:
    """Read eight frames of a GIF, APNG, WebP or AVIF animation; raises MediaError if damaged or without frames."""
    name = reading.file.name
    with _opened(_source(reading), name) as picture:
        *seconds, end = _frame_seconds(picture, reading)
        timeline = Timeline(seconds, end)
        chosen = sampling.chosen(timeline)
        if not chosen:
            raise MediaError(sampling.error_message(name, timeline))
        pictures: dict[int, NDArray[np.uint8]] = {}
        for index, frame in enumerate(_shown_frames(picture, reading)):
            if index in chosen:
                pictures[index] = reading.transform(read_rgb(frame, name))
    notices = tuple(sampling.notices(name, timeline))
    stamps = tuple(FrameStamp(index, seconds[index]) for index in chosen)
    return Medium(name, MediaKind.VIDEO, np.stack([pictures[index] for index in chosen]), stamps, notices)


def _source(reading: Reading) -> Path | Pillow.Image:
    return reading.file.held if isinstance(reading.file.held, Pillow.Image) else reading.file.path


@contextmanager
def _opened(source: Path | Pillow.Image, name: str) -> Iterator[Pillow.Image]:
    """Open a picture; meanwhile what Pillow would warn of, such as damaged EXIF tags, stays off the terminal.

    One that its owner opened stays open, at the frame where it was.
    """
    with warnings.catch_warnings(action="ignore"):
        with _readable(name):
            opened = Pillow.open(source, formats=FORMATS) if isinstance(source, Path) else _at_its_frame(source)
        with opened as picture:
            check_size(name, picture.width, picture.height, MAX_PIXELS)
            yield picture


@contextmanager
def _at_its_frame(picture: Pillow.Image) -> Iterator[Pillow.Image]:
    frame = picture.tell()
    try:
        yield picture
    finally:
        if picture.tell() != frame:
            picture.seek(frame)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise MediaError(f"{name!r} looks like a picture, but is damaged or of an unknown kind") from error
    except Pillow.DecompressionBombError as error:
        raise MediaError(f"{name!r} is too large: over {MAX_PIXELS:,} pixels") from error
    except DAMAGE as error:
        what = "cut off" if "truncated" in str(error) else "damaged, or of a kind that is not read"
        what = "closed: give it while it is open" if "closed" in str(error) else what
        raise MediaError(f"cannot read {name!r}: the picture is {what}") from error
    except MemoryError as error:  # Pillow asks for as many bytes as a damaged length says
        raise MediaError(f"cannot read {name!r}: it is damaged, or larger than the memory") from error


def _shown_frames(picture: Pillow.Image, reading: Reading) -> Iterator[Pillow.Image]:
    """Yield the frames that viewers show, without the poster that an APNG may hold for those that cannot."""
    num_posters = 1 if getattr(picture, "default_image", False) else 0
    frames = islice(ImageSequence.Iterator(picture), num_posters, None)
    while True:
        reading.check()
        with _readable(reading.file.name):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame


def _frame_seconds(picture: Pillow.Image, reading: Reading) -> Iterator[float]:
    """Yield the time at which each frame comes, and last the one at which the animation ends."""
    elapsed_ms = 0.0
    for frame in _shown_frames(picture, reading):
        yield elapsed_ms / 1000
        with _readable(reading.file.name):
            frame.load()  # WebP and AVIF know a frame's duration only then
            elapsed_ms += float(frame.info.get("duration") or DEFAULT_DURATION_MS)
    yield elapsed_ms / 1000


def read_rgb(picture: Pillow.Image, name: str) -> "NDArray[np.uint8]":
    """Return a picture as uint8 RGB, (H, W, 3): upright, over white; raises MediaError if it is damaged."""
    with _readable(name):
        return _rgb(picture)


def _rgb(picture: Pillow.Image) -> "NDArray[np.uint8]":
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        upright = _to_8_bit(upright)
    if upright.has_transparency_data:
        white = Pillow.new("RGBA", upright.size, "white")
        upright = Pillow.alpha_composite(white, upright.convert("RGBA"))
    return np.array(upright.convert("RGB"))  # uint8, (H, W, 3): a copy, since torch wants writable arrays


def _to_8_bit(picture: Pillow.Image) -> Pillow.Image:
    """Scale a 16-bit, 32-bit or float picture to 8 bits; Pillow's own conversion clips instead."""
    values = np.nan_to_num(np.asarray(picture).astype(np.float64), posinf=0, neginf=0)
    full = 65535.0 if picture.mode.startswith("I") else max(float(values.max()), 1.0)
    return Pillow.fromarray(np.clip(values * (255.0 / full) + 0.5, 0, 255).astype(np.uint8))
