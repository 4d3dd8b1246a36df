"""A file that holds a medium: identified by its content, with the facts that its header gives, and being read."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Semaphore
from typing import TYPE_CHECKING, Literal

from videollava_cli.errors import MediaError
from videollava_cli.media import MediaKind

if TYPE_CHECKING:
    import numpy as np
    from av.container import InputContainer
    from numpy.typing import NDArray

SIGNATURE_BYTES = 4096  # enough for every brand that an ISO file says it is compatible with
STILL_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF8",
    b"BM",
    b"II*\x00",  # TIFF, and MM below
    b"MM\x00*",
    b"\x00\x00\x01\x00",  # ICO
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000
    b"P4\n",
    b"P5\n",
    b"P6\n",
)
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"}  # ISO/IEC 23008-12; AVIF files bear some too
MAX_ASPECT = 2000  # longer to shorter side: bringing the shorter one to 224 pixels makes the longer one 448,000


class ReadingStopped(Exception):  # noqa: N818 (no error: somebody asked for it)
    """Reading ended before its end, since `Reader.stop` was called."""


@dataclass(frozen=True, slots=True, eq=False)
class MediaFile:
    """A medium that was found and identified by its content, and not yet read.

    `width` and `height` are those that the file's header claims, in pixels. `is_fetched` says that `path` is a copy
    made by the reader; `close` removes it early. `containers` holds the video's container while it is open and unread.
    """

    name: str
    path: Path
    form: Literal["still", "animation", "video"]
    width: int
    height: int
    is_fetched: bool = False
    containers: "list[InputContainer]" = field(default_factory=list, repr=False)

    @property
    def kind(self) -> MediaKind:
        """What a prompt calls it; an animation is a video."""
        return MediaKind.IMAGE if self.form == "still" else MediaKind.VIDEO

    @property
    def num_pixels(self) -> int:
        """The number of pixels of one picture."""
        return self.width * self.height

    def take_container(self) -> "InputContainer | None":
        """Return the container that `Reader.find` opened, once; None if it is closed or was taken."""
        with suppress(IndexError):  # the reader may close it in another thread
            return self.containers.pop()
        return None

    def close(self) -> None:
        """Close the container unless it was taken, and remove the file if it was fetched."""
        if container := self.take_container():
            container.close()
        if self.is_fetched:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Reading:
    """One medium being read: the file, what becomes of a frame, and with what means.

    `resize` brings uint8 RGB (H, W, 3) to its final form. With `processors`, which other readings use too, there is one
    decoder for each of `num_threads`, and each acquires a processor for every GOP: FFmpeg's own threads would not.
    """

    file: MediaFile
    resize: "Callable[[NDArray[np.uint8]], NDArray[np.uint8]]"
    stopped: Event
    num_threads: int
    processors: Semaphore | None = None

    def transform(self, rgb: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
        """Bring a frame to its final form.

        Raises:
            ReadingStopped: If the reader was stopped.
        """
        self.check()
        return self.resize(rgb)

    def check(self) -> None:
        """Raise `ReadingStopped` if the reader was stopped; for the work between two wanted frames."""
        if self.stopped.is_set():
            raise ReadingStopped

    def processor(self) -> AbstractContextManager[object]:
        """Hold one of the shared processors, if there are such."""
        return self.processors or nullcontext()


def check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture that would fill the memory.

    Raises:
        MediaError: If it has more than `max_pixels`, or is a mere line.
    """
    if width * height > max_pixels:
        raise MediaError(f"{name!r} is too large: {width} x {height}, over {max_pixels:,} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(f"{name!r} is too narrow: {width} x {height}, beyond {MAX_ASPECT:,} to 1")


def looks_like_a_still(head: bytes, name: str) -> bool:
    """Return whether a file's first bytes are those of a format that Pillow reads.

    Raises:
        MediaError: If they are those of a HEIC picture, which neither Pillow nor PyAV puts together from its tiles.
    """
    brands = _iso_brands(head)
    if brands & HEIC_BRANDS and not brands & AVIF_BRANDS:
        raise MediaError(f"{name!r} is a HEIC picture, and HEIC stills are not supported: convert it to JPEG")
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(STILL_SIGNATURES) or is_webp or bool(brands & AVIF_BRANDS)


def _iso_brands(head: bytes) -> set[bytes]:
    """Return the major and the compatible brands of an ISO file's `ftyp` box; none for another file."""
    if head[4:8] != b"ftyp":
        return set()
    end = int.from_bytes(head[:4], "big")
    compatible = head[16:end]  # behind size, "ftyp", major brand and its version
    return {head[8:12], *(compatible[i : i + 4] for i in range(0, len(compatible), 4))}
