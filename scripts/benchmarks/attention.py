"""What one layer's attention takes at a decode step, by each way that could compute it; knows no model.

A step of one shape needs a mask, since part of its room is not written yet. With a mask torch's fused kernels give one
block of the card to a head; without one Flash-Attention splits the keys among more, and plain products do as well.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.card import seconds_of


@torch.inference_mode()
def attention_seconds(num_rows: int, heads: tuple[int, int], room: int, device: torch.device) -> dict[str, float]:
    """Return how long attention of one new token a row takes.

    Args:
        num_rows: How many rows.
        heads: Number of heads and their size.
        room: How many keys each has.
        device: Where; numbers are fp16 on a card, fp32 on a CPU.
    """
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    num_heads, size = heads
    query = torch.randn(num_rows, num_heads, 1, size, device=device).to(dtype)
    keys, values = (torch.randn(num_rows, num_heads, room, size, device=device).to(dtype) for _ in range(2))
    mask = torch.zeros(num_rows, 1, 1, room, dtype=dtype, device=device)
    mask[..., -1] = torch.finfo(dtype).min

    def products() -> torch.Tensor:
        scores = query @ keys.transpose(-1, -2) * size**-0.5 + mask
        weighted: torch.Tensor = scores.float().softmax(-1).to(dtype) @ values
        return weighted

    return {
        "fused, with a mask": seconds_of(lambda: scaled_dot_product_attention(query, keys, values, mask), device),
        "fused, without a mask": seconds_of(lambda: scaled_dot_product_attention(query, keys, values), device),
        "as products (eager)": seconds_of(products, device),
    }
