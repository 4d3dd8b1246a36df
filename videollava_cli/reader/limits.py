"""How large pictures and streams may be; knows sizes, nothing of formats."""

import os
import shutil
from typing import BinaryIO, Protocol

from videollava_cli.errors import MediaError

MAX_BYTES = 8 << 30  # of a download or of stdin
COPY_BYTES = 1 << 20
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


class Readable(Protocol):
    """What gives bytes: stdin, or a server's response."""

    def read(self, amount: int, /) -> bytes:
        """Return up to so many bytes, none at the end."""


def copy_bounded(stream: Readable, file: BinaryIO, name: str) -> int:
    """Copy a stream into a file; return the number of bytes.

    Raises:
        MediaError: If the stream is larger than the limit, or the disk is full.
    """
    total = 0
    while block := stream.read(COPY_BYTES):
        total += len(block)
        if total > MAX_BYTES:
            raise MediaError(f"{name} is larger than {MAX_BYTES >> 30} GiB: save it and name the file")
        if shutil.disk_usage(os.path.dirname(file.name)).free < COPY_BYTES:
            raise MediaError(f"no disk space left in {os.path.dirname(file.name)!r} for {name}")
        file.write(block)
    return total
