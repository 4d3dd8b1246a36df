"""Media read in threads, ahead of the loop that uses them, within bounds on their number and on memory."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Condition, Lock
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from videollava_cli.errors import MediaError
from videollava_cli.media import Medium

if TYPE_CHECKING:
    from videollava_cli.preprocessing import PixelSettings
    from videollava_cli.reader import MediaFile, Reader

ItemT = TypeVar("ItemT")

AHEAD_AT_FIRST = 32  # media, until the loop knows how many it takes at once
PICTURES_A_DECODER = 5  # one in work, and four that others build on (H.264 at 1080p: ITU-T H.264, table A-1, level 4)

_importing = Lock()  # in several threads at once, packages may see each other half imported


@dataclass(frozen=True, slots=True, eq=False)
class ReadResult:
    """A medium, or why it could not be read, and the seconds that finding and reading it took.

    `is_found` is false if there is no such file or it is no medium, rather than a damaged one.
    """

    medium: Medium | None
    error: MediaError | None
    seconds: float
    is_found: bool = True


class ReadAhead(Generic[ItemT]):
    """Iterate over items and what came of reading the medium of each; `Reader.read_ahead` makes one.

    Use it as a context manager: entering it starts the threads, leaving it stops what is still being read and waits
    for them, except after an interrupt. `num_ahead` media may wait for the loop, beside those in work; it may be
    changed between two items. `seconds` adds up what the media took that the loop has seen.
    """

    def __init__(
        self,
        reader: "Reader",
        items: Iterable[ItemT],
        pixels: "PixelSettings",
        *,
        source: "Callable[[ItemT], str | MediaFile]",
        is_ordered: bool,
    ) -> None:
        self.num_ahead = AHEAD_AT_FIRST
        self.seconds = 0.0
        self._reader, self._items, self._pixels, self._source = reader, iter(items), pixels, source
        self._is_ordered = is_ordered
        self._pool = ThreadPoolExecutor(reader.num_readers, thread_name_prefix="reader")
        self._pending: deque[tuple[ItemT, Future[ReadResult]]] = deque()
        self._media: list[Medium] = []

    def __enter__(self) -> Self:
        self._submit()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pending:
            self._reader.stop()  # and its readings elsewhere
        is_interrupted = kind is not None and not issubclass(kind, Exception)  # a server may keep a thread for long
        self._pool.shutdown(wait=not is_interrupted, cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[ItemT, ReadResult]]:
        while self._pending:
            first = self._pending[0]
            if not self._is_ordered and not first[1].done():
                done, _ = wait([future for _, future in self._pending], return_when=FIRST_COMPLETED)
                first = next(entry for entry in self._pending if entry[1] in done)
            item, future = first
            result = future.result()
            self._pending.remove(first)
            self.seconds += result.seconds
            self._submit()
            yield item, result

    def is_ready(self, seconds: float) -> bool:
        """Wait at most so many seconds; return whether the next result is there."""
        pending = [future for _, future in self._pending]
        done, _ = wait(pending[:1] if self._is_ordered else pending, seconds, return_when=FIRST_COMPLETED)
        return bool(done)

    def result(self) -> list[Medium]:
        """Wait for all media, in the order of their items; raises MediaError if one of them cannot be read."""
        for _, result in self:
            if result.error:
                raise result.error
            assert result.medium is not None
            self._media.append(result.medium)
        return self._media

    def done(self) -> bool:
        """Return whether all media are read, or one failed, so that `result` is known."""
        results = [future.result() for _, future in self._pending if future.done()]
        return len(results) == len(self._pending) or any(result.error for result in results)

    def _submit(self) -> None:
        num_free = max(0, self._reader.num_readers + self.num_ahead - len(self._pending))
        for item in islice(self._items, num_free):
            future = self._pool.submit(try_read, self._reader, self._source(item), self._pixels)
            self._pending.append((item, future))


def try_read(reader: "Reader", source: "str | MediaFile", pixels: "PixelSettings") -> ReadResult:
    """Find a medium, unless that was done, and read it within the reader's bound on memory.

    Raises ReadingStopped if the reader was stopped.
    """
    began = time.perf_counter()
    file: MediaFile | None = None
    try:
        file = _find(reader, source) if isinstance(source, str) else source
        with reader.budget.share(pixels_held(file, reader.num_threads)):
            medium = reader.read(file, pixels)
    except MediaError as error:
        return ReadResult(None, error, time.perf_counter() - began, is_found=file is not None)
    finally:
        if file and file is not source:
            file.close()  # what was fetched goes at once
    return ReadResult(medium, None, time.perf_counter() - began)


def _find(reader: "Reader", name: str) -> "MediaFile":
    with _importing:
        from videollava_cli.reader import stills, video  # noqa: F401
    file = reader.find(name)
    with _importing:
        import torch  # noqa: F401  # for resizing
    return file


def pixels_held(file: "MediaFile", num_threads: int) -> int:
    """Return how many pixels reading a medium holds at once, with so many threads for a video, by an estimate."""
    num_pictures = PICTURES_A_DECODER * num_threads if file.form == "video" else 1
    return num_pictures * file.width * file.height


class PixelBudget:
    """A number of pixels of which threads take shares, and wait while too few are left.

    The thread that waits longest is served first, so that small shares do not keep a large one waiting for ever.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._left = total
        self._queue = Lock()
        self._changed = Condition()

    @contextmanager
    def share(self, amount: int) -> Iterator[None]:
        """Hold a share; one that is larger than the whole is the whole."""
        amount = min(amount, self.total)
        with self._queue, self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()
