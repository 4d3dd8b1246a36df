"""Were the eight frames the right ones? Clips of ours have each frame's number drawn into the picture's middle.

It outlives codec, resize and centre crop. Black and white blocks fill three quarters of the centre square's side, five
a row: one white, one black, the bits of the number from the highest to the lowest, and three that check them.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from internals import SIDE, frame_to_model
from numpy.typing import NDArray

from videollava_cli.media import NUM_FRAMES
from videollava_cli.sampling import uniform_indices

Frames = NDArray[np.uint8]
Judge = Callable[[Frames], str]
RIGHT = "right"
THUMBNAIL_BLOCK = 4  # pixels a side that become one
TIE_LEVELS = 0.1  # frames that differ by less are the same picture: a decoder's rounding is larger
MAX_LEVELS = 12.0  # mean difference of one frame between two decoders; another picture, or a rotated one, is further
NUM_COLUMNS = 5
NUM_BITS = 20  # 11 hours at 25 frames a second
NUM_CHECK_BITS = 3
SHARE = 0.75  # of the centre square's side
WHITE, BLACK = 235, 16  # of luma, in the range of video
MIN_CONTRAST = 60  # levels between white and black: less is no marker


def draw_marker(luma: NDArray[np.uint8], index: int) -> None:
    """Draw a number into the middle of a picture's luma, uint8 (H, W), in place."""
    side = int(min(luma.shape) * SHARE) // NUM_COLUMNS
    blocks = np.where(_cells(index), WHITE, BLACK).astype(np.uint8).reshape(NUM_COLUMNS, NUM_COLUMNS)
    whole = side * NUM_COLUMNS
    top, left = (luma.shape[0] - whole) // 2, (luma.shape[1] - whole) // 2
    luma[top : top + whole, left : left + whole] = blocks.repeat(side, axis=0).repeat(side, axis=1)


def read_marker(rgb: NDArray[np.uint8]) -> int | None:
    """Return the number in a centre square, uint8 RGB (S, S, 3); None if there is none that passes its check."""
    side = rgb.shape[0] * SHARE / NUM_COLUMNS
    start = (rgb.shape[0] - side * NUM_COLUMNS) / 2
    grey = rgb.mean(axis=2)
    edges = [(round(start + (i + 0.25) * side), round(start + (i + 0.75) * side)) for i in range(NUM_COLUMNS)]
    levels = np.array([grey[top:bottom, left:right].mean() for top, bottom in edges for left, right in edges])
    if levels[0] - levels[1] < MIN_CONTRAST:
        return None
    cells = levels > (levels[0] + levels[1]) / 2
    index = int("".join("01"[int(cell)] for cell in cells[2 : 2 + NUM_BITS]), 2)
    return index if cells.tolist() == _cells(index) else None


def _cells(index: int) -> list[bool]:
    bits = f"{index:0{NUM_BITS}b}"
    return [c == "1" for c in f"10{bits}{bits.count('1') % 2**NUM_CHECK_BITS:0{NUM_CHECK_BITS}b}"]


def marker_judge(num_frames: int) -> Judge:
    """Return the judge of a clip whose frames have their number drawn."""
    return _judge(uniform_indices(num_frames), lambda frame, _: read_marker(frame))


def sequential_judge(path: Path) -> Judge:
    """Return the judge of any file, decoded whole: a frame is right if none is nearer to it than the wanted one."""
    import av

    print(f"decoding all of {path.name}, to know its frames", file=sys.stderr)
    shown = []
    with av.open(f"file:{path.absolute()}", metadata_errors="replace") as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            upright = np.rot90(frame.to_ndarray(format="rgb24"), (frame.rotation // 90) % 4)
            shown.append(_thumbnail(frame_to_model(np.ascontiguousarray(upright))))
    thumbnails = np.stack(shown)  # (N, 56, 56)
    wanted = uniform_indices(len(thumbnails))
    return _judge(wanted, lambda frame, index: _nearest(_thumbnail(frame), thumbnails, index))


def _judge(wanted: list[int], index_of: Callable[[Frames, int], int | None]) -> Judge:
    def judge(frames: Frames) -> str:
        if frames.shape != (NUM_FRAMES, SIDE, SIDE, 3):
            return f"WRONG: shape {frames.shape}"
        found = [index_of(frame, index) for frame, index in zip(frames, wanted, strict=True)]
        return RIGHT if found == wanted else f"WRONG: {_listed(found)} for {_listed(wanted)}"

    return judge


def _thumbnail(frame: Frames) -> Frames:
    side = SIDE // THUMBNAIL_BLOCK
    blocks = frame.reshape(side, THUMBNAIL_BLOCK, side, THUMBNAIL_BLOCK, 3)
    small: Frames = blocks.mean(axis=(1, 3, 4)).round().astype(np.uint8)
    return small


def _nearest(thumbnail: Frames, thumbnails: Frames, wanted: int) -> int | None:
    differences = np.array([np.abs(other.astype(np.int16) - thumbnail).mean() for other in thumbnails])
    if differences.min() > MAX_LEVELS:
        return None
    return wanted if differences[wanted] <= differences.min() + TIE_LEVELS else int(differences.argmin())


def _listed(indices: list[int] | list[int | None]) -> str:
    return " ".join("?" if index is None else str(index) for index in indices)
