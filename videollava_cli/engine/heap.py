"""The C library's heap while much is made and dropped; knows glibc, nothing of tensors."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
SMALLEST_BYTES = 1 << 20
LARGEST_BYTES = 32 << 20  # as far as glibc itself raises its threshold (mallopt(3), DEFAULT_MMAP_THRESHOLD_MAX)


@contextmanager
def returning_blocks() -> Iterator[None]:
    """Have blocks of a mebibyte and more go back to the system when they are freed.

    Quantizing makes short-lived tensors of many mebibytes between small ones that stay. In glibc's heap the holes that
    they leave come to more than the quantized weights themselves. Afterwards the thresholds are what glibc would have
    raised them to, so that answering reuses its memory; where the C library is another, nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    mallopt(M_MMAP_THRESHOLD, SMALLEST_BYTES)
    try:
        yield
    finally:
        mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_BYTES)
