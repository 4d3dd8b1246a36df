"""What the machine is: processors, memory, GPUs, disk; asks the system and torch, and judges nothing."""

import csv
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from videollava_cli.doctor.facts import Computer, Disk, Gpu, Graphics, Kept
from videollava_cli.engine.quantized import entries
from videollava_cli.errors import first_line
from videollava_cli.machine import num_processors

DRIVER_QUERY = ("nvidia-smi", "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader")
DRIVER_SECONDS = 20  # until nvidia-smi must have answered; a sick driver never does


def look_at_computer(root: Path = Path("/")) -> Computer:
    """Find out the processors and the memory that this process may use; a container may be given less than there is.

    Args:
        root: Where `proc` and `sys` are.
    """
    total, available = _memory(root)
    processors = num_processors()
    for group in _control_groups(root):
        limit, used = _number(group / "memory.max"), _number(group / "memory.current")
        if limit is not None:
            total = limit if total is None else min(total, limit)
            left = max(limit - (used or 0), 0)
            available = left if available is None else min(available, left)
        processors = min(processors, _quota(group) or processors)
    return Computer(processors, total, available)


def _memory(root: Path) -> tuple[int | None, int | None]:
    """Return the machine's memory and what of it is available, in bytes."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
            return None, None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.split()}
    return kib["MemTotal"] << 10, kib["MemAvailable"] << 10


def _control_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those above it (cgroup v2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    top = root / "sys/fs/cgroup"
    for line in lines:
        if line.startswith("0::"):
            folder = top / line.removeprefix("0::").lstrip("/")
            yield folder
            yield from (parent for parent in folder.parents if parent.is_relative_to(top))


def _number(path: Path) -> int | None:
    """Return the number in a control group's file; None without a file, or for `max`."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _quota(group: Path) -> int | None:
    """Return how many processors a control group may keep busy, rounded up."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return None


def look_at_kept_weights(folder: Path) -> Kept:
    """Find out what is kept of quantized weights; their sizes are compared, their content is not read."""
    found = entries(folder)
    num_unusable = sum(entry.state != "kept" for entry in found)
    return Kept(str(folder), len(found), num_unusable, sum(entry.num_bytes for entry in found))


def look_at_disk(folder: Path) -> Disk:
    """Find out the room on the disk of a folder that need not be there yet."""
    there = folder.expanduser().absolute()
    while not there.exists():
        there = there.parent
    usage = shutil.disk_usage(there)
    return Disk(str(folder), usage.total, usage.free)


def look_at_graphics(torch: ModuleType) -> Graphics:
    """Find out which GPUs torch can use, and which NVIDIA's driver knows.

    Args:
        torch: The package.
    """
    driver, cards = ask_driver()
    try:
        return Graphics(tuple(_gpus(torch)), torch.version.cuda, driver, cards)
    except RuntimeError as error:  # a GPU that is there and busy, or sick
        return Graphics((), torch.version.cuda, driver, cards, first_line(error))


def _gpus(torch: ModuleType) -> Iterator[Gpu]:
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            capability = tuple(torch.cuda.get_device_capability(index))
            yield Gpu(f"cuda:{index}", torch.cuda.get_device_name(index), total, free, capability)
    elif torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        yield Gpu("mps", "Apple GPU", total, total - torch.mps.driver_allocated_memory(), None)


def ask_driver() -> tuple[str | None, tuple[str, ...]]:
    """Return the version of NVIDIA's driver, and its cards with their memory, as nvidia-smi tells them."""
    if shutil.which(DRIVER_QUERY[0]) is None:
        return None, ()
    try:
        done = subprocess.run(  # noqa: S603 (a fixed command)
            DRIVER_QUERY, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None, ()
    rows = [row for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True) if len(row) == 3]
    return (rows[0][0] if rows else None), tuple(f"{name} ({memory})" for _, name, memory in rows)
