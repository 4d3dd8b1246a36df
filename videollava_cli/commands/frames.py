"""`vllava frames`: what the model sees of a medium, as a picture."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from videollava_cli.commands import options as opt
from videollava_cli.console import Console, clock, printable
from videollava_cli.engine.checkpoint import find_pixels
from videollava_cli.errors import OutputError, UsageError
from videollava_cli.media import Medium
from videollava_cli.output_file import check_output
from videollava_cli.preprocessing import Fit, PixelSettings, seen_box
from videollava_cli.reader import Reader
from videollava_cli.reader.urls import local_path
from videollava_cli.settings import Settings

EXAMPLES = """\b
Examples:
  vllava frames clip.mp4                   # draw them in the terminal
  vllava frames clip.mp4 -o sheet.png      # write a contact sheet
  vllava frames clip.mp4 --fit pad         # all of it, not the centre
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
            help="A video or image: path, URL, hf://[datasets/]owner/repo/path, or - for stdin.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        opt.option("Write the picture to this file: .png, .jpg or .webp.", "Output", "-o", "--output", metavar="FILE"),
    ] = None,
    overwrite: Annotated[
        bool, opt.option("Replace any file of that name, not only a sheet of vllava.", "Output", "--overwrite")
    ] = False,
    json_object: opt.JsonObject = False,
) -> None:
    """Show the frames that the model sees, and what the crop hides from it.

    Eight frames of a video, or the image, to the pixel; what the crop leaves out is dimmed. Where no picture can be
    shown, such as in a pipe, the frames are listed. No weights are needed, and for a preset no download.
    """
    if overwrite and output is None:
        raise UsageError("--overwrite is about a file: add -o FILE")
    if output:
        _check_output(output, local_path(medium), is_any_replaced=overwrite)
    with Reader(settings) as reader:
        with console.status("Finding media"):
            found = reader.find(medium)
        from videollava_cli.sheet import Overview, draw_frames, draw_sheet, encode, frame_lines, make_tiles

        overview = Overview()
        pixels = find_pixels(settings)
        with console.status("Reading frames"):
            read = reader.read(found, pixels, transform=overview)
    console.media_notices([read], settings)
    title = " ".join(printable(os.path.basename(read.name.rstrip("/")) or read.name).split())
    lines = _lines(read, overview.size, pixels)
    tiles = make_tiles(read, overview, pixels)
    if output:
        try:
            output.write_bytes(encode(draw_sheet(tiles, title, lines), output.suffix))
        except OSError as error:
            raise OutputError(f"cannot write {str(output)!r}: {error.strerror}") from error
    if json_object:
        console.answer(json.dumps(_json(read, overview.size, pixels), ensure_ascii=False) + "\n")
    elif not output and not draw_frames(tiles, title, lines, console):
        table = ["", " frame   seconds", *frame_lines(read)] if read.stamps else []
        console.answer("".join(f"{line}\n" for line in (title, *lines, *table)))


def _check_output(output: Path, source: str, *, is_any_replaced: bool) -> None:
    """Refuse by a UsageError, before anything is read, a file that cannot be the picture's."""
    from videollava_cli.sheet import FORMATS, is_sheet

    if output.suffix.lower() not in FORMATS:
        raise UsageError(f"cannot write {str(output)!r}: give a name that ends in .png, .jpg or .webp")
    form = "contact sheet of vllava (--overwrite replaces it)"
    check_output(output, form, None if is_any_replaced else is_sheet, [source])


def _lines(medium: Medium, size: tuple[int, int], pixels: PixelSettings) -> list[str]:
    """Describe what all frames have in common; `size` is their height and width in the file."""
    from videollava_cli.sheet import REACH

    height, width = size
    parts = [f"{width} x {height}"]
    if medium.stamps:
        first, last = medium.stamps[0], medium.stamps[-1]
        parts.append(f"frames {first.index} to {last.index}, {clock(first.seconds)} to {clock(last.seconds)}")
    parts.append(f"the model sees {pixels.crop_side} x {pixels.crop_side}")
    left, top, right, bottom = seen_box(height, width, pixels)
    hidden = 1 - (right - left) * (bottom - top) / (width * height)
    fit = "the whole picture"
    if hidden:
        fit = f"the centre {right - left} x {bottom - top}, {hidden:.0%} of the picture is cropped away"
        fit += ", and shown in part" if max(height, width) > REACH * min(height, width) else ""
    elif height != width:
        fit += {Fit.PAD: ", with bars", Fit.STRETCH: ", out of proportion"}.get(pixels.fit, "")
    return ["   ·   ".join(parts), f"{pixels.fit}: {fit}"]


def _json(medium: Medium, size: tuple[int, int], pixels: PixelSettings) -> dict[str, Any]:
    """Return what --json prints; `crop` is in the file's own pixels."""
    height, width = size
    return {
        "path": medium.name,
        "kind": medium.kind.value,
        "width": width,
        "height": height,
        "fit": str(pixels.fit),
        "crop": dict(zip(("left", "top", "right", "bottom"), seen_box(height, width, pixels), strict=True)),
        "frames": [asdict(stamp) for stamp in medium.stamps],
    }


def add_to(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=opt.HelpCommand, epilog=EXAMPLES, no_args_is_help=True)(frames)
