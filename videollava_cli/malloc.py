"""Tune glibc's malloc where large blocks are made and dropped; other C libraries are left as they are.

glibc keeps freed blocks of up to 32 MiB, in an arena for each of several threads, and returns them to the system from
a heap's end only. Blocks above its threshold for mmap it returns at once. See mallopt(3).
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
LARGE_BYTES = 1 << 20  # half the brightness of a picture of 1080p: decoders keep several until a clip is read
LARGEST_BYTES = 32 << 20  # as far as glibc itself raises its threshold (DEFAULT_MMAP_THRESHOLD_MAX)
NUM_ARENAS = 2  # by itself glibc makes up to eight a processor


class _Malloc:
    """The C library's malloc, and its threshold for mmap in bytes, which glibc does not give out."""

    threshold = LARGEST_BYTES

    def set(self, parameter: int, value: int) -> None:
        if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
            mallopt(parameter, value)

    def set_threshold(self, num_bytes: int) -> None:
        self.threshold = num_bytes
        self.set(M_MMAP_THRESHOLD, num_bytes)
        self.set(M_TRIM_THRESHOLD, 2 * num_bytes)  # twice, as in glibc's own adjustment


_malloc = _Malloc()


def limit_arenas() -> None:
    """Let all threads share two arenas: freed pictures in many of them add up (`scripts/bench batch`)."""
    _malloc.set(M_ARENA_MAX, NUM_ARENAS)


def return_large_blocks() -> None:
    """Return blocks of a mebibyte and more to the system when they are freed, from now on."""
    _malloc.set_threshold(LARGE_BYTES)


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Return blocks of a mebibyte and more to the system when they are freed, as long as this lasts.

    Quantizing makes short-lived tensors of many mebibytes between small ones that stay; the holes between these would
    take more memory than the quantized weights. Answering, afterwards, reuses its memory.
    """
    before = _malloc.threshold
    return_large_blocks()
    try:
        yield
    finally:
        _malloc.set_threshold(before)
