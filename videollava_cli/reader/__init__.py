"""Reading media: what the user names becomes a `Medium`. Opens files only when it is asked to find or read one."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from videollava_cli.errors import MediaError
from videollava_cli.machine import limit_arenas, num_processors, return_large_blocks
from videollava_cli.media import NUM_FRAMES, Medium
from videollava_cli.preprocessing import resize_frame, resize_image, to_model
from videollava_cli.reader.media_file import (
    SIGNATURE_BYTES,
    MediaFile,
    Reading,
    ReadingStopped,
    looks_like_a_still,
)
from videollava_cli.reader.read_ahead import PixelBudget, ReadAhead, ReadResult, try_read
from videollava_cli.reader.sources import to_file
from videollava_cli.sampling import Sampling
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from videollava_cli.preprocessing import PixelSettings, Resize

    Transform = Callable[[NDArray[np.uint8], PixelSettings, Resize], NDArray[np.uint8]]

__all__ = ["MediaFile", "ReadAhead", "ReadResult", "Reader", "ReadingStopped", "try_read"]

ItemT = TypeVar("ItemT")

MAX_READERS = 32
# Pixels of the pictures that all readers hold, for each processor: half of an 8K one. Two processors have room for one
# video of 1080p beside a smaller one; since readers share the processors, a second large one would only take memory.
PIXELS_A_PROCESSOR = 16_600_000
MAX_OPEN = 16  # files that were found and not yet read: of more, the oldest are closed and opened again to be read


class Reader:
    """Find media, then read them; fetched files live until it is closed.

    Use it as a context manager. Its methods may be called from several threads.

    Args:
        settings: Whether to fetch, which frames of a clip to take, how many threads decode one.
        num_threads: How many threads decode a video, in place of what the settings say; by default as many as this
            process may use processors.
        processors: Shared with other readings at the same time, if there are such.
    """

    def __init__(
        self, settings: Settings, *, num_threads: int | None = None, processors: threading.Semaphore | None = None
    ) -> None:
        self.num_threads = num_threads or settings.decode_threads or num_processors()
        self.processors = processors
        self.num_readers = 1
        self.budget = PixelBudget(PIXELS_A_PROCESSOR * self.num_threads)
        self._is_offline = settings.offline
        self._sampling = settings.sampling
        self._stopped = threading.Event()
        self._lock = threading.Lock()
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
            processors = threading.Semaphore(num_processors)
            reader = cls(settings, num_threads=min(NUM_FRAMES, num_processors), processors=processors)
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

    def find(self, name: str) -> MediaFile:
        """Find a medium and identify it, without decoding a frame.

        Args:
            name: A path, `http(s)://` URL, `hf://[datasets/]owner/repo/path`, or `-` for bytes on stdin.

        Raises:
            MediaError: If there is none, or it is neither a video nor an image.
        """
        path = to_file(name, self._scratch_folder, offline=self._is_offline)
        is_fetched = self._scratch is not None and path.parent == Path(self._scratch.name)
        try:
            file = _identify(path, "stdin" if name == "-" else name, is_fetched=is_fetched)
        except MediaError:
            if is_fetched:
                path.unlink(missing_ok=True)
            raise
        if file.containers:
            self._keep_open(file)
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

        Args:
            file: What to read.
            pixels: The checkpoint's image processor settings, and how to fit pictures.
            sampling: Which frames of a clip to take; by default what the reader's settings say.
            transform: Brings a picture to its final form, by default the model's square. All must have the same
                shape, and they come in no particular order.

        Raises:
            MediaError: If it is damaged beyond use, or has no frame where one is wanted.
            ReadingStopped: If `stop` was called.
        """
        resize = resize_image if file.form == "still" else resize_frame
        reading = Reading(
            file,
            lambda rgb: transform(rgb, pixels, resize),
            self._stopped,
            num_threads=self.num_threads,
            processors=self.processors,
        )
        sampling = sampling or self._sampling
        if file.form == "video":
            from videollava_cli.reader.video import read_clip

            return read_clip(reading, sampling)
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
        """Read the media of many items in threads, ahead of the loop over what comes of them.

        Args:
            items: Taken as they are needed, in the thread that loops.
            pixels: As for `read`.
            source: Gives the name of an item's medium, or its file if it was found before.
            is_ordered: Whether results come in the order of the items, rather than as they are there.
        """
        return ReadAhead(self, items, pixels, source=source, is_ordered=is_ordered)

    def _keep_open(self, file: MediaFile) -> None:
        with self._lock:
            self._open.append(file)
            if len(self._open) > MAX_OPEN and (container := self._open.popleft().take_container()):
                container.close()

    def _scratch_folder(self) -> Path:
        """Return the folder for what is fetched, made at the first call."""
        with self._lock:
            if not self._scratch:
                try:
                    self._scratch = TemporaryDirectory(prefix="vllava-")
                except OSError as error:
                    reason = error.strerror or error
                    message = f"cannot make a temporary folder: {reason}; point TMPDIR to one with space"
                    raise MediaError(message) from error
            return Path(self._scratch.name)


def _identify(path: Path, name: str, *, is_fetched: bool) -> MediaFile:
    form: Literal["still", "animation", "video"]
    with path.open("rb") as content:
        if looks_like_a_still(content.read(SIGNATURE_BYTES), name):
            from videollava_cli.reader.stills import probe_still

            is_animation, width, height = probe_still(path, name)
            form = "animation" if is_animation else "still"
            return MediaFile(name, path, form, width=width, height=height, is_fetched=is_fetched)
        from videollava_cli.reader.container import check_boxes, open_container, video_stream

        check_boxes(content, name)
    container = open_container(path, name)
    try:
        stream = video_stream(container, name)
    except BaseException:
        container.close()
        raise
    size = {"width": stream.width, "height": stream.height}
    return MediaFile(name, path, "video", **size, is_fetched=is_fetched, containers=[container])
