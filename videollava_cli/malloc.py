"""The C library's heap where much is made and dropped; knows glibc, nothing of tensors or pictures.

glibc keeps what is freed, up to 32 MiB a block and in an arena for each of several threads, and gives it back from a
heap's end only. What is larger than its threshold for mmap it gives back at once. See mallopt(3).
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
SMALLEST_BYTES = 1 << 20
PICTURE_BYTES = 1 << 20  # half the brightness of a picture of 1080p: decoders keep several until a clip is read
NUM_ARENAS = 2  # by itself glibc makes up to eight a processor
LARGEST_BYTES = 32 << 20  # as far as glibc itself raises its threshold (DEFAULT_MMAP_THRESHOLD_MAX)


class _Heap:
    """The threshold for mmap that holds now; where the C library is another than glibc, nothing is changed."""

    threshold = LARGEST_BYTES

    def __init__(self) -> None:
        self._mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None

    def set(self, threshold: int) -> None:
        """Set the threshold, in bytes, and with it that for giving back a heap's end, as glibc does."""
        self.threshold = threshold
        self._tell(M_MMAP_THRESHOLD, threshold)
        self._tell(M_TRIM_THRESHOLD, 2 * threshold)

    def share_arenas(self, number: int) -> None:
        """Let all threads share so many arenas."""
        self._tell(M_ARENA_MAX, number)

    def _tell(self, parameter: int, value: int) -> None:
        if self._mallopt:
            self._mallopt(parameter, value)


_heap = _Heap()


def give_back_pictures() -> None:
    """Have the memory of large pictures go back to the system when they are freed, from now on.

    Several threads that decode leave freed pictures in several arenas, so that many clips took more memory than a few
    (`scripts/bench batch` tells what they take).
    """
    _heap.set(PICTURE_BYTES)
    _heap.share_arenas(NUM_ARENAS)


@contextmanager
def returning_blocks() -> Iterator[None]:
    """Have blocks of a mebibyte and more go back to the system when they are freed, as long as this lasts.

    Quantizing makes short-lived tensors of many mebibytes between small ones that stay. In glibc's heap the holes that
    they leave come to more than the quantized weights themselves. Answering, afterwards, reuses its memory.
    """
    before = _heap.threshold
    _heap.set(SMALLEST_BYTES)
    try:
        yield
    finally:
        _heap.set(before)
