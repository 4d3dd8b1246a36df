"""What this process may use of the machine: processors, and memory, which glibc's malloc is made to give back.

A container gets less than there is. `/proc/self/cgroup` names our control groups; their limits, and those of the groups
above them, are in `/sys/fs/cgroup` (kernel.org: admin-guide/cgroup-v2, cgroup-v1/memory).
"""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path("/")  # of proc and sys; tests plant files below another folder
# Files of a group's limit and usage, in version 2 and 1, and the line of memory.stat with the page cache: the kernel
# gives it back when memory is short, and with it reading a checkpoint would count as using as much memory.
MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
BFLOAT16_FLAGS, TILE_FLAG = ("avx512_bf16", "amx_bf16", "bf16"), "amx_bf16"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
LARGE_BYTES = 1 << 20  # half the brightness of a picture of 1080p: decoders keep several until a clip is read
LARGEST_BYTES = 32 << 20  # as far as glibc itself raises its threshold (DEFAULT_MMAP_THRESHOLD_MAX)
NUM_ARENAS = 2  # by itself glibc makes up to eight a processor


def num_processors() -> int:
    """Return how many processors this process may keep busy."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _control_groups():
        with suppress(OSError, ValueError):  # no such file, or no quota: "max 100000"
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            count = min(count, max(1, math.ceil(int(quota) / int(period))))
    return count


def total_memory() -> int:
    """Return the memory that this process may fill, in bytes."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _memory_limits())])


def free_memory() -> int:
    """Return the memory that this process may still take, in bytes: what is available, within every limit."""
    import psutil

    free = [int(psutil.virtual_memory().available), *(max(limit - used, 0) for limit, used in _memory_limits())]
    with suppress(ImportError):  # Windows has no such limits
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            free.append(max(limit - int(psutil.Process().memory_info().vms), 0))
    return min(free)


def has_fast_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 faster than float32, by the flags that Linux shows.

    Those are AVX-512 BF16 and AMX of x86 (Intel's instruction set reference), and ARM's FEAT_BF16.
    """
    return not _processor_flags().isdisjoint(BFLOAT16_FLAGS)


def has_bfloat16_tiles() -> bool:
    """Return whether the processor has AMX, for which torch's products of bfloat16 are made."""
    return TILE_FLAG in _processor_flags()


def _processor_flags() -> set[str]:
    with suppress(OSError):
        text = (ROOT / "proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        lines = [line.partition(":") for line in text.splitlines()]
        return {flag for name, _, words in lines if name.strip() in ("flags", "Features") for flag in words.split()}
    return set()


def may_have_gpu() -> bool:
    """Return whether torch may find a GPU here, by the devices of drivers: NVIDIA's, AMD's, WSL's; macOS has one."""
    return sys.platform != "linux" or any((ROOT / "dev" / name).exists() for name in ("nvidiactl", "kfd", "dxg"))


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Yield limit and usage, in bytes, of each control group that has a limit."""
    for group in _control_groups():
        for limit_file, usage_file, cache_line in MEMORY_FILES:
            limit, used = _number(group / limit_file), _number(group / usage_file) or 0
            with suppress(OSError, ValueError):
                lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
                used -= int(dict(line.split() for line in lines).get(cache_line, 0))
            if limit is not None:
                yield limit, used


def _control_groups() -> Iterator[Path]:
    """Yield the folders of this process's control groups that limit memory, and of those above them."""
    try:
        lines = (ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controller, path = line.split(":", 2)
        if controller in ("", "memory"):  # "" is version 2, which has all controllers in one tree
            top = ROOT / "sys/fs/cgroup" / controller
            folder = top / path.lstrip("/")
            yield from (each for each in (folder, *folder.parents) if each.is_relative_to(top))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or no limit: "max"
        return None


class _Malloc:
    """mallopt(3) where the C library is glibc; other ones are left as they are.

    glibc keeps freed blocks of up to its threshold for mmap, in an arena for each of several threads, and returns them
    to the system from a heap's end only. Larger blocks it returns at once.
    """

    threshold = LARGEST_BYTES  # in bytes; glibc does not give its own out

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
    """Return large blocks when they are freed, as long as this lasts: answering, afterwards, reuses its memory.

    Quantizing makes short-lived tensors of many mebibytes between small ones that stay; the holes between these would
    take more memory than the quantized weights.
    """
    before = _malloc.threshold
    return_large_blocks()
    try:
        yield
    finally:
        _malloc.set_threshold(before)
