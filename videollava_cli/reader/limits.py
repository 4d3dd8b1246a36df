"""How large a picture may be before it is read; knows sizes, nothing of files."""

from videollava_cli.errors import MediaError

MAX_ASPECT = 2000  # longer to shorter side: bringing the shorter one to 224 pixels makes the longer one 448,000


def check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture that would fill the memory.

    Raises:
        MediaError: If it has more than `max_pixels`, or is a mere line.
    """
    if width * height > max_pixels:
        raise MediaError(f"{name!r} is too large: {width} x {height}, over {max_pixels:,} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(f"{name!r} is too narrow: {width} x {height}, beyond {MAX_ASPECT:,} to 1")
