"""What commands say on stderr about the media that they read."""

from collections.abc import Sequence

from videollava_cli.console import Console
from videollava_cli.media import Clip, Medium
from videollava_cli.settings import Settings


def tell_about_media(media: Sequence[Medium], settings: Settings, console: Console) -> None:
    """Pass on what was noticed while reading, and with --verbose which frames were taken."""
    is_partial = (settings.start, settings.end, settings.at) != (None, None, None)
    if is_partial and not any(isinstance(medium, Clip) for medium in media):
        console.notice("--start, --end and --at choose frames of a video, and here is none")
    for medium in media:
        for notice in medium.notices:
            console.notice(notice)
        if isinstance(medium, Clip):
            for detail in medium.details:
                console.detail(detail)
            frames = ", ".join(f"{stamp.index} ({stamp.seconds:.2f} s)" for stamp in medium.stamps)
            console.detail(f"{medium.name}: frames {frames}")
