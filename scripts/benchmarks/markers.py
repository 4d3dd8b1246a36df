"""A frame's number as black and white blocks in the picture's middle: it outlives codec, resize and centre crop.

The blocks fill three quarters of the centre square's side, five a row: one white, one black, the bits of the number
from the highest to the lowest, and three that check them.
"""

import numpy as np
from numpy.typing import NDArray

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
    """Return what is white, block by block."""
    bits = f"{index:0{NUM_BITS}b}"
    return [c == "1" for c in f"10{bits}{bits.count('1') % 2**NUM_CHECK_BITS:0{NUM_CHECK_BITS}b}"]
