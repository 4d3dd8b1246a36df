"""The clips of `scripts/bench read`: how they are drawn, encoded, and kept once made."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from benchmarks.judging import SHARE, draw_marker
from benchmarks.table import BUILD

FOLDER = BUILD / "clips"
FRAMES_PER_SECOND = 25
TICKS_PER_FRAME = 4
MARGIN = 64  # pixels that the background is larger than the picture: how far it moves
NUM_GRAINS = 8  # of noise, shown in turn
DRAWING = 1  # raise it when the drawing changes: clips that were kept are drawn anew

Plane = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a clip is drawn and encoded: a moving background, a grain that costs bits, and the frame's number."""

    size: tuple[int, int]  # width and height in pixels
    num_frames: int
    codec: str = "libx264"
    options: tuple[tuple[str, str], ...] = (("preset", "superfast"),)
    megabits_per_second: float = 4  # 0: as the codec's options say
    grain: int = 4  # noise in levels
    has_varying_rate: bool = False  # frames stay for different times
    rate: int = FRAMES_PER_SECOND


@dataclass(frozen=True, slots=True)
class BenchClip:
    """A clip: its name, whose suffix is the container, and how it is made; a copy shares another clip's packets."""

    name: str
    recipe: Recipe
    is_copy_of: str = ""


SMALL, HD, FULL_HD, UHD = (640, 360), (1280, 720), (1920, 1080), (3840, 2160)
SECOND, MINUTE = FRAMES_PER_SECOND, 60 * FRAMES_PER_SECOND
# x264 and x265 place B-frames; x265 leaves its groups of pictures open. A picture's bits are those of ordinary video.
LONG = Recipe(FULL_HD, 10 * MINUTE)
# Their eight frames stand equally far from key frames, which come every 250: what differs is the length alone.
TEN_MINUTES = Recipe(HD, 10 * MINUTE - 250, megabits_per_second=1, grain=1)
HOUR = Recipe(HD, 60 * MINUTE + 750, megabits_per_second=1, grain=1)
CLIPS = (
    BenchClip("h264-360p-12s.mp4", Recipe(SMALL, 12 * SECOND, megabits_per_second=1)),
    BenchClip("h264-720p-10s.mp4", Recipe(HD, 10 * SECOND, megabits_per_second=2.5)),
    BenchClip("h264-1080p-60s.mp4", Recipe(FULL_HD, MINUTE)),
    BenchClip("h264-4k-60s.mp4", Recipe(UHD, MINUTE, megabits_per_second=15)),
    BenchClip("h264-open-gop-720p-60s.mp4", Recipe(HD, MINUTE, options=(
        ("preset", "superfast"), ("x264-params", "open-gop=1:keyint=100:bframes=3"),
    ), megabits_per_second=2.5)),
    BenchClip("h264-one-key-720p-5min.mp4", Recipe(HD, 5 * MINUTE, options=(
        ("preset", "superfast"), ("x264-params", "keyint=infinite:scenecut=0"),
    ), megabits_per_second=2.5)),
    BenchClip("h264-varying-rate-720p-60s.mp4", Recipe(HD, MINUTE, megabits_per_second=2.5, has_varying_rate=True)),
    BenchClip("hevc-1080p-60s.mp4", Recipe(FULL_HD, MINUTE, "libx265", (
        ("preset", "ultrafast"), ("x265-params", "log-level=error:bframes=3:keyint=250"),
    ))),
    BenchClip("av1-720p-60s.mp4", Recipe(HD, MINUTE, "libsvtav1", (
        ("preset", "9"), ("crf", "35"),
    ), megabits_per_second=0)),
    BenchClip("vp9-720p-60s.webm", Recipe(HD, MINUTE, "libvpx-vp9", (
        ("deadline", "realtime"), ("cpu-used", "8"), ("row-mt", "1"),
    ), megabits_per_second=2)),
    BenchClip("mjpeg-720p-60s.avi", Recipe(HD, MINUTE, "mjpeg", (), megabits_per_second=20)),
    BenchClip("h264-1080p-10min.mp4", LONG),
    BenchClip("h264-1080p-10min.mkv", LONG, "h264-1080p-10min.mp4"),
    BenchClip("h264-1080p-10min.ts", LONG, "h264-1080p-10min.mp4"),
    BenchClip("h264-720p-10min.mp4", TEN_MINUTES),
    BenchClip("h264-720p-10min.mkv", TEN_MINUTES, "h264-720p-10min.mp4"),
    BenchClip("h264-720p-60min.mp4", HOUR),
    BenchClip("h264-720p-60min.mkv", HOUR, "h264-720p-60min.mp4"),
)  # fmt: skip
WARM_UP = BenchClip("warm-up.mp4", Recipe((320, 240), 16))


def made(clip: BenchClip) -> Path:
    """Return a clip's file, made now if it is not there."""
    stem, suffix = os.path.splitext(clip.name)
    path = FOLDER / f"{stem}-{key_of(DRAWING, clip.recipe, clip.is_copy_of)}{suffix}"
    if clip.is_copy_of and not path.exists():
        source = made(next(other for other in CLIPS if other.name == clip.is_copy_of))
        return kept(path, partial(copy_packets, source))
    return kept(path, partial(encode, clip.recipe))


def key_of(drawing: int, *more: object) -> str:
    """Return a key that changes with how clips are drawn, with FFmpeg's libraries, and with what else there is."""
    content = " ".join(map(str, (drawing, av.library_versions, *more)))
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def kept(path: Path, write: Callable[[Path], None]) -> Path:
    """Return a path, written now if it is not there: whole or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"making {path.name}", file=sys.stderr)
        with TemporaryDirectory(dir=path.parent) as folder:
            write(Path(folder, path.name))
            Path(folder, path.name).replace(path)
    return path


def encode(recipe: Recipe, path: Path) -> None:
    """Draw and encode a clip, in the container that the path's suffix names."""
    encode_pictures(recipe, path, _pictures(recipe))


def encode_pictures(recipe: Recipe, path: Path, pictures: Iterable[Plane]) -> None:
    """Encode pictures, yuv420p, uint8 (H * 3 / 2, W), in the container that the path's suffix names."""
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints errors only
    with av.open(str(path), "w") as container:
        stream = container.add_stream(recipe.codec, rate=recipe.rate, options=dict(recipe.options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = recipe.size
        stream.pix_fmt = "yuvj420p" if recipe.codec == "mjpeg" else "yuv420p"
        stream.bit_rate = int(recipe.megabits_per_second * 1e6)
        tick = Fraction(1, recipe.rate * TICKS_PER_FRAME)
        if recipe.codec != "mjpeg":  # AVI wants the frame's time
            stream.codec_context.time_base = tick
        for index, yuv in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(yuv, format=stream.pix_fmt)
            frame.time_base = tick
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
    side = int(min(width, height) // 2 * SHARE) + 2  # of the marker in a plane of colour, and a little more
    top, left = (height // 2 - side) // 2, (width // 2 - side) // 2
    for index in range(recipe.num_frames):
        row, column = (round(MARGIN / 2 * (1 + turn)) for turn in (np.sin(index / 40), np.cos(index / 60)))
        np.add(luma[row : row + height, column : column + width], grains[index % NUM_GRAINS], out=yuv[:height])
        for plane, background in zip(colors, chroma, strict=True):
            plane[:] = background[row // 2 : row // 2 + height // 2, column // 2 : column // 2 + width // 2]
            plane[top : top + side, left : left + side] = 128
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
