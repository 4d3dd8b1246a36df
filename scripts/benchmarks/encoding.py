"""Drawing clips and encoding them; knows neither which there are nor where they are kept."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from benchmarks.markers import SHARE, draw_marker

FRAMES_PER_SECOND = 25
TICKS_PER_FRAME = 4
MARGIN = 64  # pixels that the background is larger than the picture: how far it moves
NUM_GRAINS = 8  # of noise, shown in turn
DRAWING = 1  # raise it when the drawing changes: clips that were kept are drawn anew

Plane = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a clip is drawn and encoded: a background that moves, with a grain that costs bits, and the frame's number.

    `grain` is the noise in levels. No bits a second leave it to the codec's options how many there are.
    `has_varying_rate` lets frames stay for different times.
    """

    size: tuple[int, int]  # width and height in pixels
    num_frames: int
    codec: str = "libx264"
    options: tuple[tuple[str, str], ...] = (("preset", "superfast"),)
    megabits_per_second: float = 4
    grain: int = 4
    has_varying_rate: bool = False


def encode(recipe: Recipe, path: Path) -> None:
    """Draw and encode a clip, in the container that the path's suffix names."""
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder tells errors only
    with av.open(str(path), "w") as container:
        stream = container.add_stream(recipe.codec, rate=FRAMES_PER_SECOND, options=dict(recipe.options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = recipe.size
        stream.pix_fmt = "yuvj420p" if recipe.codec == "mjpeg" else "yuv420p"
        stream.bit_rate = int(recipe.megabits_per_second * 1e6)
        if recipe.codec != "mjpeg":  # AVI wants the frame's time
            stream.codec_context.time_base = Fraction(1, FRAMES_PER_SECOND * TICKS_PER_FRAME)
        for index, yuv in enumerate(_pictures(recipe)):
            frame = av.VideoFrame.from_ndarray(yuv, format=stream.pix_fmt)
            frame.time_base = Fraction(1, FRAMES_PER_SECOND * TICKS_PER_FRAME)
            frame.pts = index * TICKS_PER_FRAME + (index * index % TICKS_PER_FRAME if recipe.has_varying_rate else 0)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def copy_packets(source: Path, path: Path) -> None:
    """Write a clip into another container, the one that the path's suffix names, without encoding it again."""
    with av.open(str(source)) as found, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(found.streams.video[0])
        for packet in found.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)


def _pictures(recipe: Recipe) -> Iterator[Plane]:
    """Yield the pictures of a clip as yuv420p, uint8 (H * 3 / 2, W)."""
    width, height = recipe.size
    rng = np.random.default_rng(width * height)
    luma, *chroma = (_background(rng, width // part, height // part) for part in (1, 2, 2))
    grains = rng.integers(0, recipe.grain + 1, (NUM_GRAINS, height, width), np.uint8)
    yuv = np.empty((height * 3 // 2, width), np.uint8)
    colors = yuv[height:].reshape(2, height // 2, width // 2)
    middle = _middle(width // 2, height // 2)
    for index in range(recipe.num_frames):
        row, column = (round(MARGIN / 2 * (1 + turn)) for turn in (np.sin(index / 40), np.cos(index / 60)))
        np.add(luma[row : row + height, column : column + width], grains[index % NUM_GRAINS], out=yuv[:height])
        for plane, background in zip(colors, chroma, strict=True):
            plane[:] = background[row // 2 : row // 2 + height // 2, column // 2 : column // 2 + width // 2]
            plane[middle] = 128
        draw_marker(yuv[:height], index)
        yield yuv


def _background(rng: np.random.Generator, width: int, height: int) -> Plane:
    """Return a random texture with large and small detail, uint8 levels 40 to 200, a margin larger than a picture."""
    rows, columns = height + MARGIN + 1, width + MARGIN + 1
    levels = np.zeros((rows, columns), np.float32)
    for size, strength in ((64, 70), (16, 30), (4, 15)):
        coarse = rng.uniform(0, strength, (rows // size + 2, columns // size + 2)).astype(np.float32)
        levels += coarse.repeat(size, axis=0).repeat(size, axis=1)[:rows, :columns]
    return (40 + levels).astype(np.uint8)


def _middle(width: int, height: int) -> tuple[slice, slice]:
    """Return the rows and columns of the marker, and a little more."""
    side = int(min(width, height) * SHARE) + 2
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)
