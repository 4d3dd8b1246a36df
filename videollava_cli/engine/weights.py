"""Read weights from safetensors files, block by block, and quantize them piece by piece: no second copy in memory."""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from safetensors import safe_open
from torch.utils._python_dispatch import TorchDispatchMode

DTYPES = {  # names of the safetensors format, for the numbers in Video-LLaVA and its quantized weights
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I8": torch.int8, "U8": torch.uint8},
}
# What is converted at once. For a CPU: it stays in the cache, and torch starts no threads for so few numbers (it does
# from 32,768 on, at::internal::GRAIN_SIZE). For a GPU: enough that a transfer runs at full speed.
CPU_BLOCK_BYTES, GPU_BLOCK_BYTES = 64 << 10, 16 << 20
QUANTIZE_OPERATOR = "bitsandbytes::quantize_4bit"
PIECE_NUMBERS = 1 << 20  # a multiple of every block size of bitsandbytes (32 to 4,096), so no block is cut in two


@contextmanager
def stored_tensors(
    files: Sequence[Path], device: torch.device, dtype: torch.dtype | None = None, *, is_mapped: bool = True
) -> Iterator[dict[str, Any]]:
    """Open safetensors files as tensors by name, for `from_pretrained(state_dict=...)`.

    A tensor is read when it is indexed by `[...]`, safely from several threads, as long as this lasts. Numbers with a
    fraction get `dtype`, unless it is None. On a CPU a tensor that needs no conversion is mapped from the file, if
    `is_mapped`, and shares its pages with the page cache; any other goes through one block of memory a thread. Raises
    SafetensorError or OSError if a file is damaged or cannot be read.
    """
    is_cpu = device.type == "cpu"
    has_preadv = hasattr(os, "preadv")  # Windows has none
    blocks = _Blocks(CPU_BLOCK_BYTES if is_cpu else GPU_BLOCK_BYTES, is_pinned=device.type == "cuda")
    with ExitStack() as stack:
        tensors: dict[str, Any] = {}
        for path in files:
            with safe_open(str(path), framework="pt"):
                pass  # its header is sound
            file = stack.enter_context(path.open("rb", buffering=0))
            # A length of 8 bytes, then JSON, then the tensors' bytes.
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            mapped: Any = None  # only if need be: limits of address space count what is mapped
            for name, entry in header.items():
                stored = DTYPES[entry["dtype"]]
                wanted = dtype if dtype is not None and stored.is_floating_point else stored
                if (is_cpu and is_mapped and wanted == stored) or not has_preadv:
                    mapped = mapped or stack.enter_context(safe_open(str(path), framework="pt"))
                    tensors[name] = mapped.get_slice(name)
                else:
                    place, shape = 8 + length + entry["data_offsets"][0], tuple(entry["shape"])
                    tensors[name] = _StoredTensor(file.fileno(), place, entry["dtype"], shape, device, wanted, blocks)
        yield tensors


class _Blocks(threading.local):
    """The block that each thread reads into; page-locked, a GPU takes it without a copy of the driver's."""

    def __init__(self, num_bytes: int, *, is_pinned: bool) -> None:
        self.memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=is_pinned)


@dataclass(frozen=True, slots=True, eq=False)
class _StoredTensor:
    """A tensor in an open file, with the three methods of safetensors' slices that transformers calls."""

    descriptor: int
    offset: int
    format: str  # in the file, by safetensors' name
    shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    blocks: _Blocks

    def get_dtype(self) -> str:
        return self.format

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def __getitem__(self, everything: EllipsisType) -> torch.Tensor:
        tensor = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        numbers = tensor.view(-1)
        block = self.blocks.memory.view(DTYPES[self.format])
        place = self.offset
        for first in range(0, numbers.numel(), block.numel()):
            piece = block[: numbers.numel() - first]
            left = piece.view(torch.uint8).numpy().data
            while left:
                num_read = os.preadv(self.descriptor, [left], place)
                if not num_read:
                    raise OSError("a file of weights ends early: it was cut short while it was read")
                left, place = left[num_read:], place + num_read
            numbers[first : first + piece.numel()].copy_(piece)
        return tensor


class PiecewiseQuantization(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While this lasts, bitsandbytes quantizes to 4 bits piece by piece, with the same outcome.

    On a CPU it makes several temporary tensors of 4 bytes a number. For a whole weight at once they were the peak of
    loading (`scripts/bench load`).
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator of torch, in pieces if it is the one that quantizes."""
        if func.name() != QUANTIZE_OPERATOR:
            return func(*args, **(kwargs or {}))
        weight, *how = args
        pieces = torch.split(weight.reshape(-1), PIECE_NUMBERS)
        packed, scales = zip(*(func(piece, *how, **(kwargs or {})) for piece in pieces), strict=True)
        return torch.cat(packed), torch.cat(scales)  # numbers, two a byte, and the scale of each block
