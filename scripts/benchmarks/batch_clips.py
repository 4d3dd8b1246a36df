"""The 64 clips that `scripts/bench batch` asks about: drawn scenes, so that `tiny` has something to say."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from tiny_world.rendering import render_clip
from tiny_world.scenes import Scene, draw_scene

from benchmarks.clips import Recipe, encode_pictures, kept, key_of
from benchmarks.table import BUILD

FOLDER = BUILD / "batch"
NUM_CLIPS = 64
FRAMES_PER_SECOND = 24
SHORTEST_SECONDS, LONGEST_SECONDS = 5, 60
NUM_STEPS = 32  # of a scene that are drawn; each is shown for a while
NUM_GRAINS, GRAIN_LEVELS = 8, 9  # noise, as cameras have it, which costs bits
BITS_PER_PIXEL = 0.11  # of each frame: 2.5 Mbit/s at 720p, as ordinary video has
KEY_FRAMES_EVERY = (24, 48, 250)  # frames: phones and cameras, streaming, x264 left alone; VP9 has its own, 128
# Width and height in pixels: what phones, cameras and the web give.
SIZES = ((640, 360), (1280, 720), (320, 240), (360, 640), (854, 480), (1920, 1080), (640, 480), (426, 240))
LARGEST_DRAWN = 1920  # pixels: wider pictures are drawn smaller and enlarged
DRAWING = 3  # raise it when the drawing changes


@dataclass(frozen=True, slots=True)
class BatchClip:
    """A clip, drawn from its number: width and height in pixels, seconds, and whether it is VP9 in WebM or H.264."""

    number: int
    size: tuple[int, int]
    seconds: int
    is_vp9: bool

    @property
    def name(self) -> str:
        form, suffix = ("vp9", "webm") if self.is_vp9 else ("h264", "mp4")
        return f"{self.number:02}-{form}-{self.size[1]}p-{self.seconds}s.{suffix}"


def _clip(number: int) -> BatchClip:
    """Return one of the 64: every fourth is VP9, up to 720p, since encoding more takes minutes."""
    is_vp9 = number % 4 == 3
    size = SIZES[(number // 2 + number) % len(SIZES)]
    share = (number * 37 % NUM_CLIPS) / (NUM_CLIPS - 1)  # lengths and sizes in no common order
    seconds = int(SHORTEST_SECONDS * math.pow(LONGEST_SECONDS / SHORTEST_SECONDS, share) + 0.5)
    return BatchClip(number, (1280, 720) if is_vp9 and size[1] > 720 else size, seconds, is_vp9)


CLIPS = tuple(_clip(number) for number in range(NUM_CLIPS))
LARGE_CLIP = BatchClip(NUM_CLIPS, (7680, 4320), 1, is_vp9=False)  # pictures between others, as phones make them


def made(clip: BatchClip) -> Path:
    """Return a clip's file, made now if it is not there."""
    return kept(FOLDER / key_of(DRAWING)[:8] / clip.name, lambda path: encode(clip, path))


def encode(clip: BatchClip, path: Path) -> None:
    """Draw and encode a clip."""
    codec, options = "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "row-mt": "1"}
    if not clip.is_vp9:
        codec, options = "libx264", {"preset": "superfast", "g": str(KEY_FRAMES_EVERY[clip.number % 3])}
    megabits = clip.size[0] * clip.size[1] * FRAMES_PER_SECOND * BITS_PER_PIXEL / 1e6
    num_frames = clip.seconds * FRAMES_PER_SECOND
    recipe = Recipe(clip.size, num_frames, codec, tuple(options.items()), megabits, rate=FRAMES_PER_SECOND)
    encode_pictures(recipe, path, _pictures(clip, num_frames))


def _pictures(clip: BatchClip, num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures of a clip as yuv420p, uint8 (H * 3 / 2, W)."""
    width, height = clip.size
    rng = np.random.default_rng(clip.number)
    scene = draw_scene(rng, is_video=True)
    grains = rng.integers(0, GRAIN_LEVELS, (NUM_GRAINS, height, width), np.uint8)
    shown_step = -1
    for index in range(num_frames):
        step = index * NUM_STEPS // num_frames
        if step != shown_step:
            drawn, shown_step = _drawn(scene, step, (height, width)), step
        yuv = drawn.copy()
        yuv[:height] += grains[index % NUM_GRAINS]
        yield yuv


def _drawn(scene: Scene, step: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    smaller = -(-width // LARGEST_DRAWN)
    rgb = render_clip(scene, np.array([(step + 0.5) / NUM_STEPS]), (height // smaller, width // smaller))[0]
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(width, height, "yuv420p")
    return np.minimum(frame.to_ndarray(), 255 - GRAIN_LEVELS).astype(np.uint8)
