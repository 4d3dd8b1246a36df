"""Bytes in words: memory in GiB, as cards are sold; disks and downloads in GB."""

GIB, MIB = 1 << 30, 1 << 20


def memory_size(num_bytes: int) -> str:
    """Return an amount of memory, such as 13.7 GiB or 21 MiB."""
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB // 10 else f"{num_bytes / MIB:.0f} MiB"


def gigabytes(num_bytes: int) -> str:
    """Return an amount of disk space, such as 14.7 GB."""
    return f"{num_bytes / 1e9:.1f} GB"
