"""Reading media: what the user names becomes a `Medium`. Opens files only when it is asked to find or read one."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from threading import Event, Lock, Semaphore
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from videollava_cli.errors import MediaError
from videollava_cli.machine import limit_arenas, num_processors, return_large_blocks
from videollava_cli.media import NUM_FRAMES, MediaKind, Medium
from videollava_cli.preprocessing import resize_frame, resize_image, to_model
from videollava_cli.process import scratch_folder
from videollava_cli.reader.read_ahead import PixelBudget, ReadAhead, ReadResult, try_read
from videollava_cli.reader.sources import from_memory, to_file
from videollava_cli.reader.urls import shown_name
from videollava_cli.sampling import Sampling
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

    import numpy as np
    from av.container import InputContainer
    from numpy.typing import NDArray
    from PIL.Image import Image

    from videollava_cli.preprocessing import PixelSettings, Resize
    from videollava_cli.reader.in_memory import Clip, Source

    Transform = Callable[[NDArray[np.uint8], PixelSettings, Resize], NDArray[np.uint8]]

__all__ = ["MediaFile", "ReadAhead", "ReadResult", "Reader", "ReadingStopped", "num_processors", "try_read"]

ItemT = TypeVar("ItemT")

MAX_READERS = 32
# Pixels of the pictures that all readers hold, for each processor: half of an 8K one. Two processors have room for one
# video of 1080p beside a smaller one; since readers share the processors, a second large one would only take memory.
PIXELS_A_PROCESSOR = 16_600_000
MAX_OPEN = 16  # files that were found and not yet read: of more, the oldest are closed and opened again to be read
SIGNATURE_BYTES = 4096  # enough for every brand that an ISO file says it is compatible with
STILL_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF8",
    b"BM",
    *(b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),  # TIFF and BigTIFF
    *(b"\x00\x00\x01\x00", b"\x00\x00\x02\x00", b"icns"),  # ICO, CUR, ICNS
    *(b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),  # JPEG 2000: files and codestreams
    *(b"8BPS", b"DDS ", b"qoif", b"\x01\xda", b"\x59\xa6\x6a\x95", b"/* XPM */"),  # PSD, DDS, QOI, SGI, Sun, XPM
    *(b"\x0a\x05\x01", b"\xb1\x68\xde\x3a"),  # PCX, DCX
)
NETPBM_SIGNATURE = re.compile(rb"P[1-6f][\s#]")  # PBM, PGM, PPM, PFM
AVIF_BRANDS = {b"avif", b"avis"}
# ISO/IEC 23008-12: brands of pictures, which AVIF files bear too, and of sequences, which are videos.
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1"}
SEQUENCE_BRANDS = {b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"}
MAX_ASPECT = 2000  # longer to shorter side: bringing the shorter one to 224 pixels makes the longer one 448,000


class ReadingStopped(Exception):  # noqa: N818 (no error: somebody asked for it)
    """Reading ended before its end, since `Reader.stop` was called."""


@dataclass(frozen=True, slots=True, eq=False)
class MediaFile:
    """A medium that was found and identified by its content, and not yet read.

    `width` and `height` are those that the file's header claims, in pixels. `is_fetched` says that `path` is a copy
    made by the reader; `close` removes it early. `stream_format` is FFmpeg's name for a stream that has no container.
    `containers` holds the video's container while it is open and unread, `held` a picture or frames that are in memory
    and in no file.
    """

    name: str
    path: Path
    form: Literal["still", "animation", "video", "frames"]
    width: int
    height: int
    is_fetched: bool = False
    stream_format: str | None = None
    containers: "list[InputContainer]" = field(default_factory=list, repr=False)
    held: "Image | Clip | None" = None

    @property
    def kind(self) -> MediaKind:
        """What a prompt calls it; an animation is a video."""
        return MediaKind.IMAGE if self.form == "still" else MediaKind.VIDEO

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
    processors: Semaphore | None

    def transform(self, rgb: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
        """Bring a frame to its final form, unless the reader was stopped."""
        self.check()
        return self.resize(rgb)

    def check(self) -> None:
        """Raise `ReadingStopped` if the reader was stopped; for the work between two wanted frames."""
        if self.stopped.is_set():
            raise ReadingStopped

    def processor(self) -> AbstractContextManager[object]:
        """Hold one of the shared processors, if there are such."""
        return self.processors or nullcontext()


class Reader:
    """Find media, then read them, from any thread; files that it fetched live until it is closed.

    `num_threads` threads decode a video; by default as many as the settings say, or this process may use processors.
    `processors` are shared with other readings at the same time, if there are such.
    """

    def __init__(
        self, settings: Settings, *, num_threads: int | None = None, processors: Semaphore | None = None
    ) -> None:
        self.num_threads = num_threads or settings.decode_threads or num_processors()
        self.processors = processors
        self.num_readers = 1
        self.budget = PixelBudget(PIXELS_A_PROCESSOR * self.num_threads)
        self._is_offline = settings.offline
        self._sampling = settings.sampling
        self._stopped = Event()
        self._lock = Lock()
        self._scratch: TemporaryDirectory[str] | None = None
        self._open: deque[MediaFile] = deque()

    @classmethod
    def of_many(cls, settings: Settings, num_processors: int) -> Self:
        """Make a reader of many media at once, which share the processors.

        Each is decoded by as many threads as it has use for, and each thread acquires a processor for every GOP: so the
        last media of many are decoded by all processors, as the first are. With `decode_threads` in the settings, each
        is decoded by so many threads, and nothing is shared.
        """
        limit_arenas()
        return_large_blocks()
        if settings.decode_threads:
            reader = cls(settings)
        else:
            num_threads = min(NUM_FRAMES, num_processors)
            reader = cls(settings, num_threads=num_threads, processors=Semaphore(num_processors))
        reader.num_readers = max(1, min(MAX_READERS, num_processors // (settings.decode_threads or 1)))
        reader.budget = PixelBudget(PIXELS_A_PROCESSOR * num_processors)
        return reader

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was found and not read, and remove what was fetched."""
        with self._lock:
            for file in self._open:
                file.close()
            self._open.clear()
            if self._scratch:
                self._scratch.cleanup()
                self._scratch = None

    def stop(self) -> None:
        """Let a `read` in another thread, and every later one, end within a frame by raising `ReadingStopped`."""
        self._stopped.set()

    def find(self, source: "Source") -> MediaFile:
        """Find a medium and identify it, without decoding a frame; see `to_file` for names, `in_memory` for the rest.

        Raises MediaError if there is none, or it is neither a video nor an image; UsageError if nothing like `source`
        is a medium.
        """
        if isinstance(source, PathLike):
            source = os.fsdecode(source)
        if isinstance(source, str):
            path = to_file(source, self._scratch_folder, offline=self._is_offline)
            name = "stdin" if source == "-" else shown_name(source)
        elif isinstance(source, bytes | bytearray | memoryview) or _is_open_file(source):
            path, name = from_memory(source, self._scratch_folder)
        else:
            from videollava_cli.reader.in_memory import identify

            return identify(source)
        is_fetched = self._scratch is not None and path.parent == Path(self._scratch.name)
        try:
            file = _identify(path, name, is_fetched=is_fetched)
        except MediaError:
            if is_fetched:
                path.unlink(missing_ok=True)
            raise
        if file.containers:
            with self._lock:
                self._open.append(file)
                if len(self._open) > MAX_OPEN and (oldest := self._open.popleft().take_container()):
                    oldest.close()
        return file

    def read(
        self,
        file: MediaFile,
        pixels: "PixelSettings",
        *,
        sampling: Sampling | None = None,
        transform: "Transform" = to_model,
    ) -> Medium:
        """Read a medium: eight frames of a clip, or one picture, each transformed as soon as it is there.

        `sampling` is by default that of the reader's settings. Frames come to `transform` in no particular order, and
        must all get the same shape. Raises MediaError if the file is damaged beyond use, or has no frame where one is
        wanted; ReadingStopped if `stop` was called.
        """
        resize = resize_image if file.form == "still" else resize_frame
        reading = Reading(
            file, lambda rgb: transform(rgb, pixels, resize), self._stopped, self.num_threads, self.processors
        )
        sampling = sampling or self._sampling
        if file.form == "video":
            from videollava_cli.reader.video import read_clip

            return read_clip(reading, sampling)
        if file.form == "frames":
            from videollava_cli.reader.in_memory import read_frames

            return read_frames(reading, sampling)
        from videollava_cli.reader.stills import read_animation, read_image

        return read_animation(reading, sampling) if file.form == "animation" else read_image(reading)

    def read_ahead(
        self,
        items: Iterable[ItemT],
        pixels: "PixelSettings",
        *,
        source: Callable[[ItemT], str | MediaFile],
        is_ordered: bool = True,
    ) -> ReadAhead[ItemT]:
        """Read the media of many items in threads; `source` gives an item's name, or its file if it was found before.

        Items are taken as they are needed, in the thread that loops. Results come in the order of the items, or as
        they are there.
        """
        return ReadAhead(self, items, pixels, source=source, is_ordered=is_ordered)

    def _scratch_folder(self) -> Path:
        if self._stopped.is_set():
            raise ReadingStopped
        with self._lock:
            if not self._scratch:
                try:
                    self._scratch = scratch_folder()
                except OSError as error:
                    reason = error.strerror
                    message = f"cannot make a temporary folder: {reason}; point TMPDIR to one with space"
                    raise MediaError(message) from error
            return Path(self._scratch.name)


def check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture that would fill the memory: raises MediaError if it is too large, or a mere line."""
    if width * height > max_pixels:
        raise MediaError(f"{name!r} is too large: {width} x {height}, over {max_pixels:,} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(f"{name!r} is too narrow: {width} x {height}, beyond {MAX_ASPECT:,} to 1")


def _identify(path: Path, name: str, *, is_fetched: bool) -> MediaFile:
    with path.open("rb") as content:
        head = content.read(SIGNATURE_BYTES)
        if _is_still(head):
            from videollava_cli.reader.stills import probe_still

            return MediaFile(name, path, *probe_still(path, name), is_fetched=is_fetched)
        from videollava_cli.reader.container import (
            check_boxes,
            check_pictures,
            open_container,
            stream_format,
            video_stream,
        )

        if form := stream_format(head):
            check_pictures(content, name, form)
        else:
            check_boxes(content, name)
    container = open_container(path, name, form)
    try:
        stream = video_stream(container, name)
    except BaseException:
        container.close()
        raise
    size = stream.width, stream.height
    return MediaFile(name, path, "video", *size, is_fetched=is_fetched, stream_format=form, containers=[container])


def _is_open_file(source: object) -> bool:
    return not isinstance(source, type) and callable(getattr(source, "read", None))


def is_heif(head: bytes) -> bool:
    """Return whether a file that begins so is a HEIF picture, such as HEIC, and neither AVIF nor a sequence."""
    brands = _brands(head)
    return bool(brands & HEIF_BRANDS) and not brands & AVIF_BRANDS and head[8:12] not in SEQUENCE_BRANDS


def _is_still(head: bytes) -> bool:
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_simple = head.startswith(STILL_SIGNATURES) or NETPBM_SIGNATURE.match(head) is not None
    return is_simple or is_webp or bool(_brands(head) & AVIF_BRANDS) or is_heif(head)


def _brands(head: bytes) -> set[bytes]:
    """Return the brands that an ISO file says it has; none for another file."""
    if head[4:8] != b"ftyp":
        return set()
    compatible = head[16 : int.from_bytes(head[:4], "big")]  # behind size, "ftyp", major brand and its version
    return {head[8:12], *(compatible[i : i + 4] for i in range(0, len(compatible), 4))}
