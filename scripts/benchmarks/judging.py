"""Were the eight frames the right ones? Knows frames, neither who read them nor how fast."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from settings_7b import PIXELS, SIDE

from benchmarks.markers import read_marker
from videollava_cli.media import NUM_FRAMES
from videollava_cli.preprocessing import resize_frame, to_model
from videollava_cli.sampling import uniform_indices

Frames = NDArray[np.uint8]
Judge = Callable[[Frames], str]
RIGHT = "right"
THUMBNAIL_BLOCK = 4  # pixels a side that become one
TIE_LEVELS = 0.1  # frames that differ by less are the same picture: a decoder's rounding is larger
MAX_LEVELS = 12.0  # mean difference of one frame between two decoders; another picture, or a rotated one, is further


def marker_judge(num_frames: int) -> Judge:
    """Return what judges a clip that tells each frame's number."""
    wanted = uniform_indices(num_frames)

    def judge(frames: Frames) -> str:
        if frames.shape != (NUM_FRAMES, SIDE, SIDE, 3):
            return f"WRONG: shape {frames.shape}"
        found = [read_marker(frame) for frame in frames]
        return RIGHT if found == wanted else f"WRONG: {_listed(found)} for {_listed(wanted)}"

    return judge


def sequential_judge(path: Path) -> Judge:
    """Return what judges any file, from decoding all of it in order with PyAV.

    A frame is right if no other of the file is nearer to it than the wanted one.
    """
    thumbnails = _decode_all(path)
    wanted = uniform_indices(len(thumbnails))

    def judge(frames: Frames) -> str:
        if frames.shape != (NUM_FRAMES, SIDE, SIDE, 3):
            return f"WRONG: shape {frames.shape}"
        found = [_nearest(_thumbnail(frame), thumbnails, index) for frame, index in zip(frames, wanted, strict=True)]
        return RIGHT if found == wanted else f"WRONG: {_listed(found)} for {_listed(wanted)}"

    return judge


def _decode_all(path: Path) -> Frames:
    """Return a small grey version of every frame, uint8 (N, 56, 56)."""
    import av

    print(f"decoding all of {path.name}, to know its frames", file=sys.stderr)
    thumbnails = []
    with av.open(f"file:{path.absolute()}", metadata_errors="replace") as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            upright = np.rot90(frame.to_ndarray(format="rgb24"), (frame.rotation // 90) % 4)
            thumbnails.append(_thumbnail(to_model(np.ascontiguousarray(upright), PIXELS, resize_frame)))
    return np.stack(thumbnails)


def _thumbnail(frame: Frames) -> Frames:
    side = SIDE // THUMBNAIL_BLOCK
    blocks = frame.reshape(side, THUMBNAIL_BLOCK, side, THUMBNAIL_BLOCK, 3)
    small: Frames = blocks.mean(axis=(1, 3, 4)).round().astype(np.uint8)
    return small


def _nearest(thumbnail: Frames, thumbnails: Frames, wanted: int) -> int | None:
    """Return which frame a thumbnail shows, the wanted one if there is none nearer; None if it shows none."""
    differences = np.array([np.abs(other.astype(np.int16) - thumbnail).mean() for other in thumbnails])
    if differences.min() > MAX_LEVELS:
        return None
    return wanted if differences[wanted] <= differences.min() + TIE_LEVELS else int(differences.argmin())


def _listed(indices: list[int] | list[int | None]) -> str:
    return " ".join("?" if index is None else str(index) for index in indices)
