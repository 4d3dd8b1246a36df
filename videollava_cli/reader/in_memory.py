"""Media that a Python program holds in memory: Pillow images, arrays, and clips of them."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, fromarray

from videollava_cli.errors import MediaError, UsageError
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.reader import MediaFile, Reading, check_size
from videollava_cli.reader.stills import MAX_PIXELS, probe_still, read_rgb
from videollava_cli.sampling import Sampling, Timeline

TAKEN = (
    "give a path, a URL, a PIL image, a uint8 array (H, W, 3) of an image or (T, H, W, 3) of a clip, bytes, an open "
    "binary file, or a list of these; the frames of one clip are a list in that list, or clip(frames)"
)
NOWHERE = Path()  # of what is no file
FRAMES_TAKEN = "give PIL images or uint8 arrays (H, W, 3)"


class SupportsArray(Protocol):
    """What numpy can make an array of, such as its own arrays and torch's tensors."""

    def __array__(self) -> NDArray[Any]: ...


class SupportsRead(Protocol):
    """A binary file, open for reading."""

    def read(self, amount: int, /) -> bytes:
        """Return at most `amount` bytes, none at the end of the file."""


Picture = Image | SupportsArray  # uint8, (H, W, 3)
Frame = Image | NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """The frames of one clip, in their order, and how many a second there are, if that is known; `clip` makes it."""

    frames: tuple[Frame, ...] = field(repr=False)
    fps: float | None = None


Source = str | PathLike[str] | bytes | bytearray | memoryview | SupportsRead | Picture | Clip | Sequence[Picture]


def clip(frames: Iterable[Picture] | SupportsArray, *, fps: float | Fraction | None = None) -> Clip:
    """Say that frames are those of one clip: PIL images or uint8 arrays (H, W, 3), or one array (T, H, W, 3).

    The model sees eight: of more or fewer, eight are sampled as of a file. With `fps`, frames per second, they have
    times, by which `start`, `end` and `at` choose. Raises UsageError if there is none, or one is no picture.
    """
    if fps is not None and not (isinstance(fps, Real) and not isinstance(fps, bool) and 0 < fps < math.inf):
        raise UsageError(f"fps is {fps!r}: give the number of frames per second, above 0")
    array = _array(frames)
    given: object = frames if array is None else array
    is_list = isinstance(given, Iterable) and not isinstance(given, Image | str | bytes | Mapping)
    if not is_list or (array is not None and not _is_rgb(array, 4)):
        raise UsageError(f"{_described(frames)} is no clip: give its frames as a list, or a uint8 array (T, H, W, 3)")
    pictures = tuple(_frame(index, frame) for index, frame in enumerate(cast(Iterable[object], given)))
    if not pictures:
        raise UsageError(f"a clip needs frames, and there is none: {FRAMES_TAKEN}")
    moved = [id(picture) for picture in pictures if isinstance(picture, Image) and picture.tell()]
    if len(moved) != len(set(moved)):  # Pillow's iterators give one object again and again
        raise UsageError("the frames are all one PIL image, which shows its last one: give frame.copy() of each")
    return Clip(pictures, None if fps is None else float(fps))


def identify(source: object) -> MediaFile:
    """Identify a medium in memory: a picture, an array, a clip, or the list of a clip's frames.

    Raises UsageError if it is something else, MediaError if a picture is too large or cannot be read.
    """
    array = _array(source)
    if isinstance(source, list | tuple) or (array is not None and _is_rgb(array, 4)):
        source = clip(cast(Iterable[Picture], source))
    if isinstance(source, Clip):
        for index, frame in enumerate(source.frames):
            _check_size(f"frame {index}", *_size(frame))
        return MediaFile("frames", NOWHERE, "frames", *_size(source.frames[0]), held=source)
    if array is not None and _is_rgb(array, 3):
        _check_size("array", *_size(array))
        source = fromarray(array)
    if not isinstance(source, Image):
        raise UsageError(f"{_described(source)} is no medium: {TAKEN}")
    name = os.fsdecode(getattr(source, "filename", None) or "") or ("image" if array is None else "array")
    _check_size(name, *source.size)
    return MediaFile(name, NOWHERE, *probe_still(source, name), held=source)


def read_frames(reading: Reading, sampling: Sampling) -> Medium:
    """Read eight frames of a clip in memory; raises UsageError if times choose them and they have none."""
    name, clip = reading.file.name, reading.file.held
    assert isinstance(clip, Clip)
    if clip.fps is None and not sampling.is_whole:
        raise UsageError("start, end and at need the times of frames, and these have none: say clip(frames, fps=25)")
    num_frames, fps = len(clip.frames), clip.fps or 1.0
    timeline = Timeline([index / fps for index in range(num_frames)], num_frames / fps)
    chosen = sampling.chosen(timeline)
    if not chosen:
        raise MediaError(sampling.error_message(name, timeline))
    pixels = {index: reading.transform(read_rgb(_image(clip.frames[index]), name)[0]) for index in sorted(set(chosen))}
    stamps = tuple(FrameStamp(index, timeline.seconds[index] if clip.fps else math.nan) for index in chosen)
    notices = tuple(sampling.notices(name, timeline))
    return Medium(name, MediaKind.VIDEO, np.stack([pixels[index] for index in chosen]), stamps, notices)


def _frame(index: int, frame: object) -> Frame:
    if isinstance(frame, Image):
        return frame
    array = _array(frame)
    if array is None or not _is_rgb(array, 3):
        raise UsageError(f"frame {index} of a clip is {_described(frame)}: {FRAMES_TAKEN}")
    return array


def _array(source: object) -> NDArray[Any] | None:
    """Return what says that it is an array as numpy's; None if it does not say so."""
    if isinstance(source, type) or not hasattr(source, "__array__"):
        return None
    try:
        return np.asarray(source)
    except (TypeError, RuntimeError, ValueError) as error:  # such as a tensor that is on a GPU
        raise UsageError(f"a {type(source).__name__} cannot be read from here: give a uint8 one on the CPU") from error


def _is_rgb(array: NDArray[Any], num_dimensions: int) -> bool:
    return array.dtype == np.uint8 and array.ndim == num_dimensions and array.shape[-1] == 3 and array.size > 0


def _described(source: object) -> str:
    array = None if isinstance(source, Image) else _array(source)
    if array is None:
        return "None" if source is None else f"an object of type {type(source).__name__}"
    return f"an array of {array.dtype} {array.shape}"


def _image(frame: Frame) -> Image:
    return frame if isinstance(frame, Image) else fromarray(frame)


def _size(frame: Frame) -> tuple[int, int]:
    """Return the width and height."""
    return frame.size if isinstance(frame, Image) else (frame.shape[1], frame.shape[0])


def _check_size(name: str, width: int, height: int) -> None:
    if not width * height:
        raise MediaError(f"{name!r} is empty: {width} x {height}")
    check_size(name, width, height, MAX_PIXELS)
