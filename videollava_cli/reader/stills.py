"""Still pictures and animations through Pillow."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFile, ImageOps, ImageSequence, JpegImagePlugin, UnidentifiedImageError

from videollava_cli.errors import MediaError
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.reader import SIGNATURE_BYTES, Reading, check_size, is_heif
from videollava_cli.sampling import Sampling, Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Plugins that read the named file only, start no program, and know their files by a signature.
FORMATS = (
    *("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"),
    *("CUR", "DCX", "DDS", "ICNS", "PCX", "PSD", "QOI", "SGI", "SUN", "XPM"),
)
ANIMATED_FORMATS = ("AVIF", "GIF", "PNG", "WEBP")
MAX_PIXELS = Pillow.MAX_IMAGE_PIXELS or 89_478_485  # Pillow's own limit against decompression bombs
MAX_DRAFT_PIXELS = 250_000_000  # of a JPEG, which is then decoded at half its width and height
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
# Tags of TIFF 6.0.
BITS, PHOTOMETRIC, SAMPLE_FORMAT, SIGNED = 258, 262, 339, 2
MIN_SAMPLE, MAX_SAMPLE = (340, 280), (341, 281)  # of any number format, and of whole numbers
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
        with _readable(name):
            if picture.width * picture.height > MAX_PIXELS:
                picture.draft(picture.mode, (picture.width // 2, picture.height // 2))
        rgb, scale = read_rgb(picture, name)
        notices = (f"{name!r} {scale}",) if scale else ()
        return Medium(name, MediaKind.IMAGE, reading.transform(rgb)[None], notices=notices)


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
                rgb, _ = read_rgb(frame, name)
                pictures[index] = reading.transform(rgb)
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
            opened = _open(source, name) if isinstance(source, Path) else _at_its_frame(source)
        with opened as picture:
            # Of a progressive JPEG all coefficients are in memory, at whatever size it is decoded.
            is_jpeg = isinstance(source, Path) and picture.format == "JPEG"
            can_draft = is_jpeg and "progressive" not in picture.info
            check_size(name, picture.width, picture.height, MAX_DRAFT_PIXELS if can_draft else MAX_PIXELS)
            yield picture


def _open(path: Path, name: str) -> Pillow.Image:
    with path.open("rb") as file:
        formats = FORMATS if not is_heif(file.read(SIGNATURE_BYTES)) else _heif_formats(name)
    try:
        return Pillow.open(path, formats=formats)
    except Pillow.DecompressionBombError:
        try:
            return JpegImagePlugin.JpegImageFile(path)  # whose own limit is higher, see `_opened`
        except SyntaxError:
            pass
        raise


def _heif_formats(name: str) -> tuple[str, ...]:
    """Have Pillow read HEIF; it turns pictures upright by itself, and gives a file's primary one first."""
    try:
        import pillow_heif
    except ImportError as error:
        raise MediaError(
            f"{name!r} is a HEIC picture, and the package for them is missing: pip install pillow-heif (the extra "
            f"heic), or convert it to JPEG"
        ) from error
    pillow_heif.register_heif_opener()
    return ("HEIF",)


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


def read_rgb(picture: Pillow.Image, name: str) -> "tuple[NDArray[np.uint8], str]":
    """Return a picture as uint8 RGB, (H, W, 3), upright and over white, and what is to be said about its scale, if any.

    Raises MediaError if it is damaged.
    """
    with _readable(name):
        return _rgb(picture)


def _rgb(picture: Pillow.Image) -> "tuple[NDArray[np.uint8], str]":
    is_clear = _key_mask(picture)
    picture.load()
    picture, scale = _to_8_bit(picture)
    if is_clear is not None:
        picture = picture.copy()
        picture.info.pop("transparency", None)
        picture = picture.convert("RGB")
        picture.paste("white", mask=Pillow.fromarray(is_clear))
    upright = ImageOps.exif_transpose(picture)
    if upright.mode == "La":  # which Pillow converts to nothing else
        upright = upright.convert("LA")
    if upright.has_transparency_data:
        white = Pillow.new("RGBA", upright.size, "white")
        upright = Pillow.alpha_composite(white, upright.convert("RGBA"))
    return np.array(upright.convert("RGB")), scale  # uint8, (H, W, 3): a copy, since torch wants writable arrays


def _key_mask(picture: Pillow.Image) -> "NDArray[np.bool_] | None":
    """Return where a PNG has the grey level or colour that its tRNS chunk makes transparent, (H, W).

    For 8 bits Pillow does it; others it compares with levels that it has scaled, or lost.
    """
    key, mode = picture.info.get("transparency"), picture.mode
    tile = picture.tile[0] if isinstance(picture, ImageFile.ImageFile) and picture.tile else None
    raw = str(tile.args) if tile else ""
    if picture.format != "PNG" or key is None or not (mode.startswith("I") or raw in ("L;2", "L;4", "RGB;16B")):
        return None
    if raw == "RGB;16B":  # Pillow keeps the upper bytes only
        values, wanted = np.asarray(picture), np.asarray(key) >> 8
        return np.asarray((values == wanted).all(axis=2))
    step = {"L;2": 85, "L;4": 17}.get(raw, 1)
    return np.asarray(np.asarray(picture) == int(key) * step)


def _to_8_bit(picture: Pillow.Image) -> tuple[Pillow.Image, str]:
    """Scale a grey picture of another depth to 8 bits, where Pillow's own conversion clips.

    From and to what TIFF's tags say, else the range of the format up to 16 bits, else the picture's own.
    """
    tags = getattr(picture, "tag_v2", {})
    is_signed = _tag(tags, SAMPLE_FORMAT, 1) == SIGNED
    has_range = any(tag in tags for tag in (*MIN_SAMPLE, *MAX_SAMPLE))
    is_byte = picture.mode == "L" and _tag(tags, BITS, 8) == 8 and (is_signed or has_range)
    if not is_byte and picture.mode not in ("I", "I;16", "I;16B", "I;16L", "F"):
        return picture, ""
    samples, is_white_zero = np.asarray(picture), PHOTOMETRIC in tags and _tag(tags, PHOTOMETRIC, 1) == 0
    bits = _tag(tags, BITS, 16 if picture.mode.startswith("I;") or picture.format in ("PNG", "PPM") else 32)
    if is_byte:
        samples = 255 - samples if is_white_zero else samples  # Pillow has inverted it
        samples = samples.view(np.int8) if is_signed else samples
    elif picture.mode == "I" and bits == 32 and tags and not is_signed:
        samples = samples.view(np.uint32)
    elif is_signed and picture.mode.startswith("I;16"):
        samples = samples.astype(np.uint16).view(np.int16)
    values = samples.astype(np.float64)
    finite = values[np.isfinite(values)]
    if bits <= 16 and picture.mode != "F":
        low, high, is_own = (-(2.0 ** (bits - 1)) if is_signed else 0.0), 2.0 ** (bits - is_signed) - 1, False
    else:
        low, high, is_own = float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf)), True
        if low >= high or not finite.size:  # constant: between 0 and 1 as floats mostly are
            low, high = (min(low, 0.0), max(high, 1.0)) if finite.size else (0.0, 1.0)
    told = [next((_tag(tags, tag, None) for tag in pair if tag in tags), None) for pair in (MIN_SAMPLE, MAX_SAMPLE)]
    asked = (low if told[0] is None else float(told[0]), high if told[1] is None else float(told[1]))
    if asked[0] < asked[1] and np.isfinite(asked).all():
        low, high, is_own = *asked, is_own and None in told
    levels = np.clip((np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255.0 / (high - low)), 0, 255)
    levels = 255 - levels if is_white_zero else levels
    grey = Pillow.fromarray((levels + 0.5).astype(np.uint8))
    grey.getexif().update(picture.getexif())  # its orientation
    scale = f"has {bits}-bit values: {low:g} is shown as black and {high:g} as white" if is_own else ""
    return grey, scale


def _tag(tags: Any, number: int, default: Any) -> Any:
    value = tags.get(number, default)
    return value[0] if isinstance(value, tuple) and value else value
