"""4-bit layers on a CPU: many rows at once, as in a prefill, run as a product of dequantized bfloat16 weights.

Where the processor has AVX-512 BF16, bitsandbytes packs 4-bit weights for a kernel that reads them once for each few
rows. For one row it runs at the speed of memory; for a prompt it takes longer than a plain product of bfloat16
(`scripts/bench cpu`). Packing them itself takes it as long as a third of a prefill, so that is done here, too.
"""

from typing import Any

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit

# From so many rows on, dequantizing pays: both ways take the same time at about 300 (7B's layers, AMD Zen 5, 2 cores).
MIN_ROWS = 256
BLOCK = 32  # rows of the weight that bitsandbytes packs together, 16 in the low halves of bytes and 16 in the high ones


class PackedLinear4bit(Linear4bit):
    """bitsandbytes' layer with packed weights, and another way to run many rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x`, (..., in_features), times the weight: (..., out_features), in the dtype of `x`."""
        if x.numel() < MIN_ROWS * x.shape[-1]:
            result: torch.Tensor = super().forward(x)
            return result
        stored: Any = self.weight
        weight = dequantized(stored.data, stored.quant_state)
        bias = None if self.bias is None else self.bias.to(weight.dtype)
        return torch.nn.functional.linear(x.to(weight.dtype), weight, bias).to(x.dtype)


def pack_layers(model: torch.nn.Module) -> None:
    """Pack the 4-bit layers of a model on the CPU, where bitsandbytes would do that at their first use."""
    for layer in model.modules():
        if type(layer) is Linear4bit and layer.support_avx512bf16_for_cpu:
            weight: Any = layer.weight
            if is_packable(weight.quant_state):
                weight.data = packed(weight.data, weight.quant_state)
                layer.__class__ = PackedLinear4bit


def is_packable(state: Any) -> bool:
    """Return whether weights can be packed here: whole blocks, and scales that are not quantized themselves."""
    num_rows, num_columns = state.shape
    return bool(not state.nested and num_rows % BLOCK == 0 and num_columns % state.blocksize == 0)


def packed(weight: torch.Tensor, state: Any) -> torch.Tensor:
    """Return a 4-bit weight as bitsandbytes packs it, uint8, (N, K / 2), and note that in its state.

    A byte holds two numbers of a row, or packed those of rows n and n + 16 in one column:

    #   quantized   n: (k0 k1) (k2 k3) ...        n + 16: (m0 m1) (m2 m3) ...      high half first
    #   packed      (m0 k0) (m1 k1) of 16 rows each, then (m2 k2) (m3 k3), ...
    """
    state.original_dtype, state.original_nested = state.dtype, state.nested
    if weight.dtype != torch.uint8:
        state.original_storage_type = weight.dtype
    stored = weight.view(torch.uint8)
    state.original_qshape = stored.shape
    num_rows, num_columns = state.shape
    halves = stored.view(num_rows // BLOCK, 2, BLOCK // 2, num_columns // 2)
    low, high = halves[:, 0].transpose(1, 2), halves[:, 1].transpose(1, 2)  # (N / 32, K / 2, 16)
    result = stored.new_empty(num_rows // BLOCK, num_columns // 2, BLOCK // 2, 2)
    result[..., 0] = (low >> 4) | (high & 0xF0)
    result[..., 1] = (low & 0x0F) | (high << 4)
    state.absmax = state.absmax.view(num_rows, -1).T.to(torch.bfloat16).contiguous()  # (K / blocksize, N)
    state.dtype, state.packing_format_for_cpu = torch.bfloat16, True
    return result.view(num_rows, num_columns // 2)


def dequantized(weight: torch.Tensor, state: Any) -> torch.Tensor:
    """Return a packed weight as bfloat16, (N, K)."""
    num_rows, num_columns = state.shape
    pairs = weight.view(num_rows // BLOCK, num_columns // 2, BLOCK // 2, 2)
    first, second = pairs[..., 0].transpose(1, 2), pairs[..., 1].transpose(1, 2)  # (N / 32, 16, K / 2)
    stored = weight.new_empty(num_rows // BLOCK, 2, BLOCK // 2, num_columns // 2)
    stored[:, 0] = (first << 4) | (second & 0x0F)
    stored[:, 1] = (first & 0xF0) | (second >> 4)
    scales = state.absmax.T.float().reshape(-1)  # one for each block of a row
    how: Any = QuantState(scales, state.shape, state.code, state.blocksize, state.quant_type, torch.bfloat16)  # type: ignore[no-untyped-call]
    result: torch.Tensor = dequantize_4bit(stored.view(-1, 1), how)
    return result
