"""What the model sees of a clip or an image: drawn as a contact sheet, in the terminal, or listed."""

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFont, PngImagePlugin
from rich.color import Color
from rich.console import ConsoleDimensions
from rich.constrain import Constrain
from rich.segment import Segment, Segments
from rich.style import Style

from videollava_cli.console import LINES_AROUND, Console, clock, printable
from videollava_cli.media import Medium
from videollava_cli.preprocessing import PixelSettings, crop_offset, uncropped, uncropped_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from videollava_cli.preprocessing import Resize

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MARK = "vllava frames"  # in every sheet, so that we replace no other picture
REACH = 3  # sides of the canvas in sides of the model's square: pictures of up to 3 to 1 are on it as a whole
SQUARE = 224  # pixels that the model's square takes at least on a sheet of several pictures
LONE_SQUARE = 448  # and on a sheet of one
MAX_TILE_WIDTH = 450  # above it two pictures stand in a row instead of four

BACKGROUND = (23, 25, 29)
BRIGHT, MUTED, OUTLINE = (236, 238, 241), (146, 152, 162), (214, 219, 226)
DIMMED = 0.32  # share of their own colour that surroundings keep
MARGIN, GAP, LABEL_HEIGHT = 44, 28, 36
TITLE_SIZE, TEXT_SIZE, LINE = 30, 18, 30

CELL_GAP = 2  # cells between two pictures in a terminal
NUM_COLUMNS = (1, 2, 4, 8)  # of pictures in a terminal: those that make them largest
MAX_CELLS = 96  # width of a lone picture
MAX_GRAPHICS_CELLS = 290  # kitty's placeholders count to 297


class Overview:
    """Bring frames to a canvas with the model's square in the middle and what the crop leaves out around it.

    The square is what the model sees, to the pixel. `sizes` has height and width of each frame that came.
    """

    def __init__(self) -> None:
        self.sizes: set[tuple[int, int]] = set()

    def __call__(self, rgb: "NDArray[np.uint8]", pixels: PixelSettings, resize: "Resize") -> "NDArray[np.uint8]":
        """Return a frame's canvas: uint8 RGB, (3 S, 3 S, 3)."""
        self.sizes.add((rgb.shape[0], rgb.shape[1]))
        side = pixels.crop_side
        canvas = np.full((REACH * side, REACH * side, 3), np.array(BACKGROUND, np.uint8))
        whole = uncropped(rgb, pixels, resize)
        (rows, from_rows), (columns, from_columns) = (_overlap(length, side) for length in whole.shape[:2])
        canvas[rows, columns] = whole[from_rows, from_columns]
        return canvas

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames, of the largest where they differ."""
        return max(self.sizes, key=lambda size: (size[0] * size[1], size))


def _overlap(length: int, side: int) -> tuple[slice, slice]:
    """Return the parts of the canvas and of a picture that overlap when their central squares lie on each other."""
    offset, _ = crop_offset(length, length, side)
    first = side - offset  # of the picture on the canvas, whose square begins at `side`
    start, stop = max(first, 0), min(first + length, REACH * side)
    return slice(start, stop), slice(start - first, stop - first)


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One picture on a sheet, its surroundings dimmed; `square`, left, top, right, bottom, is what the model sees."""

    picture: Image.Image
    square: tuple[int, int, int, int]
    labels: tuple[str, str] = ("", "")


def make_tiles(medium: Medium, overview: Overview, pixels: PixelSettings) -> list[Tile]:
    """Cut a medium's canvases, uint8 RGB (T, 3 S, 3 S, 3), to what lies on them, dim the surroundings and magnify."""
    side = pixels.crop_side
    heights, widths = zip(*(uncropped_shape(*size, pixels) for size in overview.sizes), strict=True)
    rows, columns = _overlap(max(heights), side)[0], _overlap(max(widths), side)[0]
    top, left = side - rows.start, side - columns.start
    zoom = max(1, round((SQUARE if len(medium.pixels) > 1 else LONE_SQUARE) / side))
    square = (left * zoom, top * zoom, (left + side) * zoom, (top + side) * zoom)
    tiles = []
    for canvas, labels in zip(medium.pixels, _labels(medium), strict=True):
        whole = canvas[rows, columns]
        levels = (whole * DIMMED + np.array(BACKGROUND) * (1 - DIMMED)).astype(np.uint8)
        levels[top : top + side, left : left + side] = whole[top : top + side, left : left + side]
        size = (levels.shape[1] * zoom, levels.shape[0] * zoom)
        tiles.append(Tile(Image.fromarray(levels).resize(size, Image.Resampling.NEAREST), square, labels))
    return tiles


def plain_tiles(medium: Medium) -> list[Tile]:
    """Return the model's squares of a medium as they are, without surroundings."""
    side = medium.pixels.shape[-2]
    pairs = zip(medium.pixels, _labels(medium), strict=True)
    return [Tile(Image.fromarray(square), (0, 0, side, side), labels) for square, labels in pairs]


def _labels(medium: Medium) -> list[tuple[str, str]]:
    return [(clock(stamp.seconds), f"frame {stamp.index}") for stamp in medium.stamps] or [("", "")]


def frame_lines(medium: Medium) -> list[str]:
    """Return a line for each frame of a clip, with its index and its time in seconds."""
    return [f"{stamp.index:6}  {stamp.seconds:8.3f}" for stamp in medium.stamps]


def draw_frames(tiles: Sequence[Tile], title: str, lines: Sequence[str], console: Console) -> bool:
    """Draw tiles in the terminal that is stdout, in its own graphics (sixel, kitty's) or else as half blocks.

    Returns False, and draws nothing, if stdout is no terminal, or one without colours.
    """
    screen = console.picture_screen()
    if screen is None:
        return False
    if _has_graphics():
        from textual_image.renderable import Image as Graphics

        sheet = Graphics(draw_sheet(tiles, title, lines), width="auto", height="auto")
        console.draw(screen, Constrain(sheet, MAX_GRAPHICS_CELLS))
    else:
        text = "".join(f"{line}\n" for line in (title, *lines))
        num_lines = len(screen.render_lines(printable(text), pad=False)) - 1  # narrow terminals break them
        size = ConsoleDimensions(screen.width, screen.height + LINES_AROUND - num_lines - 1)  # 1 for the prompt
        console.draw(screen, text, half_blocks(tiles, size))
    return True


def _has_graphics() -> bool:
    """Return whether the terminal has graphics of its own; it is asked for them, and answers on stdin."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    logging.getLogger("textual_image").setLevel(logging.ERROR)  # it warns about terminals that hide their font size
    from textual_image import renderable  # importing it asks the terminal

    return renderable.Image in (renderable.SixelImage, renderable.TGPImage)


def half_blocks(tiles: Sequence[Tile], screen: ConsoleDimensions) -> Segments:
    """Return tiles in rows, two pixels a character, with their labels under each.

    textual_image's half cells would ask the terminal on stdin, where a medium or questions may come from.
    """
    width, height = tiles[0].picture.size

    def cells_of(num_columns: int) -> int:
        fitting_lines = screen.height // -(-len(tiles) // num_columns) - 1  # 1 for the labels
        across = (screen.width - CELL_GAP * (num_columns - 1)) // num_columns
        return min(across, 2 * fitting_lines * width // height, MAX_CELLS)

    num_columns = max((number for number in NUM_COLUMNS if number <= len(tiles)), key=cells_of)
    cells = max(cells_of(num_columns), 1)
    num_lines = max(round(cells * height / width / 2), 1)
    segments, gap = [], " " * CELL_GAP
    for first in range(0, len(tiles), num_columns):
        row = tiles[first : first + num_columns]
        for line in zip(*(_blocks(tile.picture, cells, num_lines) for tile in row), strict=True):
            for block in line:
                segments += [*block, Segment(gap)]
            segments.append(Segment.line())
        labels = (f"{left}{right:>{max(cells - len(left), 0)}}" for left, right in (tile.labels for tile in row))
        segments.append(Segment(gap.join(label[:cells].ljust(cells) for label in labels).rstrip() + "\n"))
    return Segments(segments)


def _blocks(picture: Image.Image, cells: int, num_lines: int) -> Iterator[list[Segment]]:
    """Yield the lines of a picture: the upper half of each character is one pixel, the lower half the next."""
    levels = np.asarray(picture.resize((cells, 2 * num_lines), Image.Resampling.LANCZOS).convert("RGB")).tolist()
    for uppers, lowers in zip(levels[::2], levels[1::2], strict=True):
        yield [
            Segment("▀", Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
            for upper, lower in zip(uppers, lowers, strict=True)
        ]


def draw_sheet(tiles: Sequence[Tile], title: str, lines: Sequence[str]) -> Image.Image:
    """Draw tiles in rows, under a title and some lines of text."""
    large, small = ImageFont.load_default(TITLE_SIZE), ImageFont.load_default(TEXT_SIZE)
    width, height = tiles[0].picture.size
    num_columns = min(len(tiles), 4 if width <= MAX_TILE_WIDTH else 2)
    num_rows = -(-len(tiles) // num_columns)
    below = LABEL_HEIGHT if any(tiles[0].labels) else 0
    text_top = MARGIN + TITLE_SIZE + 16
    head = text_top + LINE * len(lines) + 14
    tiles_width = num_columns * (width + GAP) - GAP
    inner_width = max([tiles_width, *(round(small.getlength(line)) for line in lines)])
    total_height = head + num_rows * (height + below + GAP) - GAP + MARGIN
    sheet = Image.new("RGB", (2 * MARGIN + inner_width, total_height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), _elided(title, large, inner_width), fill=BRIGHT, font=large, anchor="lt")
    for number, line in enumerate(lines):
        draw.text((MARGIN, text_top + number * LINE), line, fill=MUTED, font=small, anchor="lt")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, num_columns)
        x = MARGIN + (inner_width - tiles_width) // 2 + column * (width + GAP)
        y = head + row * (height + below + GAP)
        sheet.paste(tile.picture, (x, y))
        left, top, right, bottom = tile.square
        # Around the square, so that every pixel of it stays as the model sees it.
        draw.rectangle((x + left - 2, y + top - 2, x + right + 1, y + bottom + 1), outline=OUTLINE, width=2)
        baseline = y + height + LABEL_HEIGHT - 6
        draw.text((x + left, baseline), tile.labels[0], fill=BRIGHT, font=small, anchor="ls")
        draw.text((x + right, baseline), tile.labels[1], fill=MUTED, font=small, anchor="rs")
    return sheet


def _elided(title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return a title with its middle left out where it is too wide, and "?" for a letter that the font lacks."""
    missing = bytes(font.getmask("\uffff"))
    text = ""
    for char in title:
        options = (char, normalize("NFKD", char)[0], "?")
        text += next(c for c in options if c in " ?" or bytes(font.getmask(c)) != missing)
    shown, num_kept = text, len(text)
    while num_kept > 2 and font.getlength(shown) > width:
        num_kept -= 1
        shown = f"{text[: num_kept - num_kept // 2]}…{text[len(text) - num_kept // 2 :]}"
    return shown


def encode(sheet: Image.Image, suffix: str) -> bytes:
    """Return a sheet, with our mark, as the bytes of a file with one of the suffixes of `FORMATS`."""
    form, file = FORMATS[suffix.lower()], BytesIO()
    if form == "JPEG":
        sheet.save(file, form, quality=93, subsampling=0, comment=MARK)
    elif form == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Software", MARK)
        sheet.save(file, form, pnginfo=text)
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.Software] = MARK
        sheet.save(file, form, lossless=True, exif=exif)
    return file.getvalue()


def is_sheet(path: Path) -> bool:
    """Return whether a file is a picture with our mark; raises OSError if it cannot be opened."""
    with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
        try:
            with Image.open(file, formats=["PNG", "JPEG", "WEBP"]) as picture:
                if picture.format == "WEBP":
                    return bool(picture.getexif().get(ExifTags.Base.Software) == MARK)
                return picture.info.get("Software") == MARK or picture.info.get("comment") == MARK.encode()
        except Exception:  # Pillow raises anything over damaged pictures, and none of them is ours
            return False
