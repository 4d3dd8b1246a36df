"""`vllava frames`: what the model sees of a medium, as a picture."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videollava_cli.commands import options as opt
from videollava_cli.console import Console, clock, printable
from videollava_cli.engine.checkpoint import find_checkpoint
from videollava_cli.engine.notes import tell_about_media
from videollava_cli.errors import OutputError, UsageError
from videollava_cli.media import Medium
from videollava_cli.preprocessing import Fit, PixelSettings, seen_box
from videollava_cli.reader import Found, MediaReader
from videollava_cli.sampling import Sampling
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from rich.console import Console as RichConsole

    from videollava_cli.sheet import Tile

EXAMPLES = """\b
Examples:
  vllava frames clip.mp4                   draw them in the terminal
  vllava frames clip.mp4 -o sheet.png      write a contact sheet
  vllava frames clip.mp4 --fit pad         the whole picture, not its centre
  vllava frames talk.mkv --start 60 --json | jq '.frames[].seconds'
  vllava frames -m tiny examples/circle-moves-right.mp4
"""


@opt.command(takes=(*opt.OUTPUT, *opt.CLIP, *opt.CHECKPOINT))
def frames(
    settings: Settings,
    console: Console,
    medium: Annotated[
        str,
        typer.Argument(
            metavar="MEDIA",
            help="A video or image: path, URL, hf://\\[datasets/]owner/repo/path, or - for stdin.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        opt.option("Write the picture to this file: .png, .jpg or .webp.", "Output", "-o", "--output", metavar="FILE"),
    ] = None,
    json_object: opt.JsonObject = False,
) -> None:
    """Show the frames that the model sees, and what the crop hides from it.

    Eight frames of a video, or the image, to the pixel; what the crop leaves out is dimmed. No weights are needed.
    Where no picture can be shown, such as in a pipe, the frames are listed.
    """
    if output:
        check_output(output, medium)
    seen = see(medium, settings, console)
    if output:
        write_sheet(seen, output)
    if json_object:
        console.answer(json.dumps(json_seen(seen), ensure_ascii=False) + "\n")
    elif not output:
        show(seen, console)


def check_output(output: Path, source: str) -> None:
    """Refuse, before anything is read, a file that cannot be the picture's.

    Raises:
        UsageError: If its name tells no format that we write, or it is a folder, in none, or the medium itself.
    """
    from videollava_cli.sheet import FORMATS

    if output.suffix.lower() not in FORMATS:
        raise UsageError(f"cannot write {str(output)!r}: give a name that ends in .png, .jpg or .webp")
    if output.is_dir():
        raise UsageError(f"cannot write {str(output)!r}: it is a folder")
    if not output.parent.is_dir():
        raise UsageError(f"cannot write {str(output)!r}: there is no folder {str(output.parent)!r}")
    if output.exists() and os.path.exists(source) and output.samefile(source):
        raise UsageError(f"{str(output)!r} is the medium itself: give another name to -o")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A medium that was read for looking at: its frames with their surroundings, and their size in the file."""

    medium: Medium
    tiles: "tuple[Tile, ...]"
    size: tuple[int, int]
    pixels: PixelSettings

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The part of the file's pictures that the model sees: left, top, right, bottom."""
        return seen_box(*self.size, self.pixels)

    @property
    def lines(self) -> tuple[str, ...]:
        """What there is to say about all of the frames."""
        height, width = self.size
        parts = [f"{width} x {height}"]
        if self.medium.stamps:
            first, last = self.medium.stamps[0], self.medium.stamps[-1]
            parts.append(f"frames {first.index} to {last.index}, {clock(first.seconds)} to {clock(last.seconds)}")
        parts.append(f"the model sees {self.pixels.crop_side} x {self.pixels.crop_side}")
        return "   ·   ".join(parts), fit_in_words(self)


def see(source: str, settings: Settings, console: Console) -> Seen:
    """Find a medium and read what the model would see of it, with the surroundings; no weights are loaded."""
    with MediaReader(offline=settings.offline, decode_threads=settings.decode_threads) as reader:
        with console.status("Finding media"):
            found = reader.find(source)
        pixels = find_checkpoint(settings).pixels
        with console.status("Reading frames"):
            seen = _read(reader, found, pixels, settings.sampling)
    tell_about_media([seen.medium], settings, console)
    return seen


def _read(reader: MediaReader, found: Found, pixels: PixelSettings, sampling: Sampling) -> Seen:
    from videollava_cli.sheet import Overview, make_tiles

    overview = Overview()
    medium = reader.read(found, pixels, sampling, final_form=overview)
    labels = [(clock(stamp.seconds), f"frame {stamp.index}") for stamp in medium.stamps] or [("", "")]
    tiles = make_tiles(medium.pixels, overview, pixels, labels)
    return Seen(medium, tuple(tiles), overview.size, pixels)


def fit_in_words(seen: Seen) -> str:
    """Return what became of the picture on its way to the model's square."""
    from videollava_cli.sheet import REACH

    (height, width), (left, top, right, bottom) = seen.size, seen.box
    hidden = 1 - (right - left) * (bottom - top) / (width * height)
    words = "the whole picture"
    if hidden:
        words = f"the centre {right - left} x {bottom - top}, {hidden:.0%} of the picture is cropped away"
        words += ", and shown in part" if max(seen.size) > REACH * min(seen.size) else ""
    elif height != width:
        words += {Fit.PAD: ", with bars", Fit.STRETCH: ", out of proportion"}.get(seen.pixels.fit, "")
    return f"{seen.pixels.fit}: {words}"


def title(seen: Seen) -> str:
    """Return the medium's name as one line."""
    return " ".join(printable(os.path.basename(seen.medium.name.rstrip("/")) or seen.medium.name).split())


def write_sheet(seen: Seen, output: Path) -> None:
    """Draw the sheet and write it to a file, replacing one that is there.

    Raises:
        OutputError: If it cannot be written.
    """
    from videollava_cli.sheet import encode

    content = encode(_sheet(seen), output.suffix)
    try:
        output.write_bytes(content)
    except OSError as error:
        raise OutputError(f"cannot write {str(output)!r}: {error.strerror}") from error


def _sheet(seen: Seen) -> "Picture":
    from videollava_cli.sheet import draw_sheet

    return draw_sheet(seen.tiles, title(seen), seen.lines)


def show(seen: Seen, console: Console) -> None:
    """Show the frames in the terminal, or list them where none can be shown."""
    screen = console.picture_screen()
    if screen is None:
        console.answer("".join(f"{line}\n" for line in _listed(seen)))
        return
    _draw(seen, console, screen)


def _draw(seen: Seen, console: Console, screen: "RichConsole") -> None:
    from videollava_cli.screen import graphics, half_blocks

    if picture := graphics(_sheet(seen)):
        console.draw(screen, picture)
        return
    blocks = half_blocks([tile.picture for tile in seen.tiles], [tile.labels for tile in seen.tiles], screen.size)
    console.draw(screen, "".join(f"{line}\n" for line in (title(seen), *seen.lines)), blocks)


def _listed(seen: Seen) -> list[str]:
    """Return what there is to see, in words: a head, then a line a frame with its index and its time in seconds."""
    lines = [title(seen), *seen.lines]
    if seen.medium.stamps:
        lines += ["", " frame   seconds", *(f"{s.index:6}  {s.seconds:8.3f}" for s in seen.medium.stamps)]
    return lines


def json_seen(seen: Seen) -> dict[str, Any]:
    """Return what there is to see as the object that --json prints; `crop` is in the file's own pixels."""
    height, width = seen.size
    return {
        "path": seen.medium.name,
        "kind": seen.medium.kind.value,
        "width": width,
        "height": height,
        "fit": str(seen.pixels.fit),
        "crop": dict(zip(("left", "top", "right", "bottom"), seen.box, strict=True)),
        "frames": [asdict(stamp) for stamp in seen.medium.stamps],
    }
