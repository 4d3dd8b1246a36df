"""The clips that readers are measured on: which there are, and where they are kept once made."""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import av

from benchmarks.encoding import DRAWING, FRAMES_PER_SECOND, Recipe, copy_packets, encode
from benchmarks.machine import BUILD

FOLDER = BUILD / "clips"
SMALL, HD, FULL_HD, UHD = (640, 360), (1280, 720), (1920, 1080), (3840, 2160)
SECOND, MINUTE = FRAMES_PER_SECOND, 60 * FRAMES_PER_SECOND


@dataclass(frozen=True, slots=True)
class BenchClip:
    """A clip: its name, whose suffix is the container, and how it is made; a copy shares another clip's packets."""

    name: str
    recipe: Recipe
    is_copy_of: str = ""


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
    """Return a clip's file, made now if it is not there: whole or not at all."""
    content = f"{DRAWING} {av.library_versions} {clip.recipe} {clip.is_copy_of}"
    key = hashlib.sha256(content.encode()).hexdigest()[:12]
    stem, suffix = os.path.splitext(clip.name)
    path = FOLDER / f"{stem}-{key}{suffix}"
    if path.exists():
        return path
    source = made(next(c for c in CLIPS if c.name == clip.is_copy_of)) if clip.is_copy_of else None
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"making {clip.name}: {clip.recipe.num_frames} frames", file=sys.stderr)
    with TemporaryDirectory(dir=FOLDER) as folder:
        unfinished = Path(folder, clip.name)
        if source:
            copy_packets(source, unfinished)
        else:
            encode(clip.recipe, unfinished)
        unfinished.replace(path)
    return path
