"""What the model saw in a conversation, drawn in the terminal or listed."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from videollava_cli.console import Console, clock
from videollava_cli.media import Medium

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

    from videollava_cli.sheet import Tile


def show_frames(media: Sequence[Medium | None], console: Console) -> None:
    """Draw the frames of media as the model sees them, or list them where none can be drawn; None is gone."""
    screen = console.picture_screen()
    for medium in media:
        if medium is None:
            console.report("gone")
        elif screen is None:
            console.report("\n".join(_listed(medium)))
        else:
            _draw(medium, console, screen)


def frame_times(medium: Medium) -> str:
    """Return the part of a clip that its frames are spread over; nothing for an image."""
    if not medium.stamps:
        return ""
    first, last = medium.stamps[0].seconds, medium.stamps[-1].seconds
    return f", {len(medium.stamps)} frames from {clock(first)} to {clock(last)}"


def _title(medium: Medium) -> str:
    return f"{os.path.basename(medium.name) or medium.name}{frame_times(medium)}"


def _listed(medium: Medium) -> list[str]:
    lines = [_title(medium)]
    lines += [f"{stamp.index:6}  {stamp.seconds:8.3f}" for stamp in medium.stamps]
    return lines


def _draw(medium: Medium, console: Console, screen: "RichConsole") -> None:
    from videollava_cli.screen import graphics, half_blocks
    from videollava_cli.sheet import draw_sheet

    tiles = _tiles(medium)
    side = tiles[0].picture.width
    if picture := graphics(draw_sheet(tiles, _title(medium), [f"the model sees {side} x {side}"])):
        console.draw(screen, picture)
        return
    blocks = half_blocks([tile.picture for tile in tiles], [tile.labels for tile in tiles], screen.size)
    console.draw(screen, f"{_title(medium)}\n", blocks)


def _tiles(medium: Medium) -> "list[Tile]":
    from PIL import Image

    from videollava_cli.sheet import Tile

    labels = [(clock(stamp.seconds), f"frame {stamp.index}") for stamp in medium.stamps] or [("", "")]
    side = medium.pixels.shape[1]
    return [
        Tile(Image.fromarray(pixels), (0, 0, side, side), texts)
        for pixels, texts in zip(medium.pixels, labels, strict=True)
    ]
