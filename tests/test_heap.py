"""Memory of large blocks goes back to the system when they are freed."""

import subprocess
import sys

import pytest

# Blocks of 8 MiB, each with another behind it that stays: so they cannot be given back from the heap's end.
FREE_BLOCKS = """
import ctypes, sys
from videollava_cli.machine import limit_arenas, return_large_blocks
if sys.argv[1] == "tuned":
    limit_arenas()
    return_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
libc.free(libc.malloc(30 << 20))  # glibc learns that blocks of this size come again, and keeps them
before, blocks = resident(), []
for _ in range(16):
    blocks.append(libc.malloc(8 << 20))
    ctypes.memset(blocks[-1], 1, 8 << 20)
    libc.malloc(200_000)
full = resident()
for block in blocks:
    libc.free(block)
print(full - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_memory_of_large_blocks_goes_back_at_once():
    held = {}
    for how in ("as it is", "tuned"):
        run = subprocess.run([sys.executable, "-c", FREE_BLOCKS, how], capture_output=True, text=True, check=True)
        full, held[how] = map(int, run.stdout.split())
        assert full > 120 << 20

    assert held["tuned"] < 8 << 20 < 100 << 20 < held["as it is"]
