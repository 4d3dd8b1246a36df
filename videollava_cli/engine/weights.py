"""Weights read block by block into the format and onto the device they are for; knows files, nothing of models."""

import json
import math
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from safetensors import safe_open

DTYPES = {  # names of the safetensors format, of what Video-LLaVA and its quantized weights consist of
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I8": torch.int8, "U8": torch.uint8},
}
# What is converted at once: on a CPU few enough numbers that they stay in its cache and torch starts no threads for
# them (from 32,768 on it does, at::internal::GRAIN_SIZE); for a GPU enough that a transfer runs at full speed.
CPU_BLOCK_BYTES, GPU_BLOCK_BYTES = 64 << 10, 16 << 20
HUGE_PAGE_BYTES = 2 << 20  # of x86-64 and ARM64 with pages of 4 KiB


@dataclass(frozen=True, slots=True)
class Target:
    """Where tensors are to be, and in which format numbers with a fraction are; None means as they are stored."""

    device: torch.device
    dtype: torch.dtype | None

    def dtype_of(self, stored: torch.dtype) -> torch.dtype:
        """Return the format that a tensor stored in this one is to have."""
        return self.dtype if self.dtype is not None and stored.is_floating_point else stored


@contextmanager
def stored_tensors(files: Sequence[Path], target: Target) -> Iterator[dict[str, Any]]:
    """Open safetensors files; each tensor is read when `[...]` is asked of it, by as many threads as like.

    On a CPU a tensor that is stored as it is to be stays in the file: its pages are mapped, and shared with the page
    cache. Any other goes through a block of memory a thread, so that no second copy of it is ever made.

    Args:
        files: The files, all of one checkpoint.
        target: What the tensors are to be.

    Yields:
        The tensors by name, for `from_pretrained(state_dict=...)`; to be read before the files are closed.

    Raises:
        SafetensorError: If a file is damaged or cut short.
        OSError: If a file cannot be read.
    """
    is_cpu = target.device.type == "cpu"
    blocks = _Blocks(CPU_BLOCK_BYTES if is_cpu else GPU_BLOCK_BYTES, is_pinned=target.device.type == "cuda")
    with ExitStack() as stack:
        tensors: dict[str, Any] = {}
        for path in files:
            mapped = stack.enter_context(safe_open(str(path), framework="pt"))  # it checks the header, too
            descriptor = os.open(path, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            for name, stored in _read_header(descriptor).items():
                stays = is_cpu and target.dtype_of(stored.dtype) == stored.dtype
                is_ours = hasattr(os, "preadv") and not stays  # which Windows has not
                tensors[name] = StoredTensor(stored, target, blocks) if is_ours else mapped.get_slice(name)
        yield tensors


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: an open file, the byte it begins at, its format and its shape."""

    descriptor: int
    offset: int
    format: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """The format that it is stored in."""
        return DTYPES[self.format]

    def read_into(self, block: memoryview, start: int) -> None:
        """Fill a block with the tensor's bytes from `start` on."""
        num_read = 0
        while num_read < len(block):
            got = os.preadv(self.descriptor, [block[num_read:]], self.offset + start + num_read)
            if not got:
                raise OSError("a file of weights ends early: it was cut short while it was read")
            num_read += got


class StoredTensor:
    """A tensor in a file, which transformers reads as it reads a slice of safetensors' own: by `tensor[...]`."""

    def __init__(self, place: Place, target: Target, blocks: "_Blocks") -> None:
        self._place = place
        self._target = target
        self._blocks = blocks

    def get_dtype(self) -> str:
        """Return the format that it is stored in, by safetensors' name."""
        return self._place.format

    def get_shape(self) -> list[int]:
        """Return its shape."""
        return list(self._place.shape)

    def __getitem__(self, everything: EllipsisType) -> torch.Tensor:
        stored = self._place.dtype
        tensor = _empty(self._place.shape, self._target.dtype_of(stored), self._target.device)
        numbers = tensor.view(-1)
        block = self._blocks.memory.view(stored)
        for first in range(0, numbers.numel(), block.numel()):
            piece = block[: numbers.numel() - first]
            self._place.read_into(piece.view(torch.uint8).numpy().data, first * stored.itemsize)
            numbers[first : first + piece.numel()].copy_(piece)
        return tensor


class _Blocks(threading.local):
    """The block that each thread reads into; page-locked, a GPU takes it without a copy of the driver's."""

    def __init__(self, num_bytes: int, *, is_pinned: bool) -> None:
        self.memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=is_pinned)


def _read_header(descriptor: int) -> dict[str, Place]:
    """Return where the tensors of a safetensors file lie: a length of 8 bytes, then JSON, then their bytes."""
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    header = json.loads(os.pread(descriptor, length, 8))
    header.pop("__metadata__", None)
    return {
        name: Place(descriptor, 8 + length + entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))
        for name, entry in header.items()
    }


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return memory for a tensor; a large one on a CPU in huge pages where Linux has them, as they fill faster."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes < HUGE_PAGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
