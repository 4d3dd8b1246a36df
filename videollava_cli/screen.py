"""Pictures as a terminal shows them: with its own graphics, else as half-blocks; knows nothing of what they show."""

import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import ConsoleDimensions, RenderableType
    from rich.segment import Segment, Segments

GAP = 2  # cells between two pictures
WIDE = 120  # columns from which on four pictures stand in a row, and not two
MAX_CELLS = 96  # width of a lone picture
MAX_GRAPHICS_CELLS = 290  # kitty's placeholders count to 297


def graphics(picture: "Image") -> "RenderableType | None":
    """Return a picture in the terminal's own graphics, sixel or kitty's; None if it has none.

    The terminal is asked for them, and answers on stdin.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        return None
    logging.getLogger("textual_image").setLevel(logging.ERROR)  # it warns of terminals that do not tell their font
    from rich.constrain import Constrain
    from textual_image import renderable  # importing it asks the terminal

    if renderable.Image not in (renderable.SixelImage, renderable.TGPImage):
        return None
    return Constrain(renderable.Image(picture, width="auto", height="auto"), MAX_GRAPHICS_CELLS)


def half_blocks(
    pictures: "Sequence[Image]", labels: Sequence[tuple[str, str]], screen: "ConsoleDimensions"
) -> "Segments":
    """Return pictures in rows, two pixels a character, with two labels under each, the left and the right one."""
    from rich.segment import Segment, Segments

    num_columns = 1 if len(pictures) == 1 else 4 if screen.width >= WIDE else 2
    cells = min((screen.width - GAP * (num_columns - 1)) // num_columns, MAX_CELLS)
    width, height = pictures[0].size
    cells = max(min(cells, 2 * screen.height * width // height), 1)
    lines = max(round(cells * height / width / 2), 1)
    segments = []
    for first in range(0, len(pictures), num_columns):
        row = slice(first, first + num_columns)
        blocks = [list(_blocks(picture, cells, lines)) for picture in pictures[row]]
        for line in range(lines):
            for block in blocks:
                segments += [*block[line], Segment(" " * GAP)]
            segments.append(Segment.line())
        texts = [f"{left}{right:>{max(cells - len(left), 0)}}"[:cells].ljust(cells) for left, right in labels[row]]
        segments.append(Segment((" " * GAP).join(texts).rstrip() + "\n"))
    return Segments(segments)


def _blocks(picture: "Image", cells: int, lines: int) -> "Iterator[list[Segment]]":
    """Yield the lines of a picture: the upper half of each character is one pixel, the lower half the next."""
    from PIL.Image import Resampling
    from rich.color import Color
    from rich.segment import Segment
    from rich.style import Style

    small = picture.resize((cells, 2 * lines), Resampling.LANCZOS).convert("RGB")
    for line in range(lines):
        pixels = [(small.getpixel((x, 2 * line)), small.getpixel((x, 2 * line + 1))) for x in range(cells)]
        yield [
            Segment("▀", Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))  # type: ignore[misc]
            for upper, lower in pixels
        ]
