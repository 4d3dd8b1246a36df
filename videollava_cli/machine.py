"""What this process may use of the machine: processors and memory, of which a container gets less than there is.

The machine's own figures are psutil's and the system's. `/proc/self/cgroup` names our control groups; their limits, and
those of the groups above them, are in `/sys/fs/cgroup` (kernel.org: admin-guide/cgroup-v2, cgroup-v1/memory):
`memory.max`, `memory.current` and `cpu.max` in version 2, `memory/.../memory.limit_in_bytes` and
`memory.usage_in_bytes` in version 1.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")  # of proc and sys; tests plant files below another folder
# Files of a group's limit and usage, and the line of memory.stat with the page cache that the kernel gives back when
# memory is short: without it, reading a checkpoint would count as using as much memory.
MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def num_processors() -> int:
    """Return how many processors this process may keep busy."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([count, *_processor_quotas()])


def total_memory() -> int:
    """Return the memory that this process may fill, in bytes."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _memory_limits())])


def free_memory() -> int:
    """Return the memory that this process may still take, in bytes: what is available, within every limit."""
    import psutil

    return min([int(psutil.virtual_memory().available), *(max(limit - used, 0) for limit, used in _memory_limits())])


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Yield limit and usage, in bytes, of each control group that has a limit."""
    for group in _control_groups():
        for limit_file, usage_file, cache_line in MEMORY_FILES:
            if (limit := _number(group / limit_file)) is not None:
                yield limit, (_number(group / usage_file) or 0) - _page_cache(group / "memory.stat", cache_line)


def _processor_quotas() -> Iterator[int]:
    for group in _control_groups():
        try:
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            yield max(1, math.ceil(int(quota) / int(period)))
        except (OSError, ValueError):  # no such file, or no quota: "max 100000"
            continue


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
    """Return the number in a control group's file; None without a file, or for `max`."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _page_cache(path: Path, line: str) -> int:
    try:
        return int(dict(each.split() for each in path.read_text(encoding="ascii").splitlines()).get(line, 0))
    except (OSError, ValueError):
        return 0
