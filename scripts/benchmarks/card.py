"""What a device can do at most, measured on it: bytes and products a second; and what generating asks of it."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import VideoLlavaForConditionalGeneration

from videollava_cli.engine.model_access import bytes_per_token
from videollava_cli.media import NUM_FRAMES

GIB = 1 << 30


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Return how long a device takes for some work: the median of three times so many repeats, after warming up."""
    times = []
    for run in range(4):
        _wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        _wait(device)
        if run:
            times.append((time.perf_counter() - began) / repeats)
    return median(times)


def copy_rate(device: torch.device) -> float:
    """Return the bytes a second that copying a large buffer reads and writes."""
    source = torch.ones(_large(device), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device)


def read_rate(device: torch.device) -> float:
    """Return the bytes a second that summing up a large buffer reads."""
    buffer = torch.ones(_large(device) // 4, dtype=torch.float32, device=device)
    return buffer.nbytes / seconds_of(buffer.sum, device)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the floating point operations a second of large matrix products."""
    side = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: left @ right, device)


def upload_rates(device: torch.device) -> dict[str, float]:
    """Return the bytes a second from the host to a card, by kind of host memory: the bound for loading."""
    target = torch.empty(GIB, dtype=torch.uint8, device=device)
    kinds = {"pageable": torch.ones(GIB, dtype=torch.uint8), "pinned": torch.ones(GIB, dtype=torch.uint8).pin_memory()}
    return {
        name: GIB / seconds_of(lambda source=source: target.copy_(source, non_blocking=True), device, repeats=2)  # type: ignore[misc]
        for name, source in kinds.items()
    }


@torch.inference_mode()
def attention_seconds(num_rows: int, heads: tuple[int, int], num_keys: int, device: torch.device) -> dict[str, float]:
    """Return the seconds of attention of one new token a row by each implementation; `heads`: their number and size.

    Static decode needs a mask over the part of its capacity that is not written. With one, torch's fused kernels give
    a head one block of the card; Flash-Attention without a mask, and plain products, split the keys among more.
    """
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    num_heads, size = heads
    query = torch.randn(num_rows, num_heads, 1, size, device=device).to(dtype)
    keys, values = (torch.randn(num_rows, num_heads, num_keys, size, device=device).to(dtype) for _ in range(2))
    mask = torch.zeros(num_rows, 1, 1, num_keys, dtype=dtype, device=device)
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


def step_bytes(model: VideoLlavaForConditionalGeneration, num_rows: int, num_tokens: float) -> float:
    """Return what a decode step must read at least: each weight of the language model once, and each row's KV cache."""
    weights = weight_bytes(model.model.language_model.layers) + weight_bytes(model.lm_head)
    return weights + num_rows * num_tokens * bytes_per_token(model)


def weight_bytes(module: nn.Module) -> int:
    """Return how much memory a module's parameters take, in bytes, with the scales of quantized ones."""
    states = (getattr(parameter, "quant_state", None) for parameter in module.parameters())
    scales = sum(int(state.absmax.nbytes) for state in states if state is not None)
    return scales + sum(parameter.nbytes for parameter in module.parameters())


def prefill_flops(model: VideoLlavaForConditionalGeneration, num_tokens: int) -> float:
    """Return the floating point operations of a clip's prefill: two for each weight and token, and attention's.

    Counted as in Kaplan et al. 2020 (arXiv 2001.08361, table 1), causal attention over half of the pairs; without the
    towers' patch embedding (a thousandth) and the logits of one token.
    """
    text: Any = model.config.get_text_config()
    vision: Any = model.config.vision_config
    num_patches = (vision.image_size // vision.patch_size) ** 2 + 1
    shown = NUM_FRAMES * num_patches
    products = 2 * num_tokens * _num_weights(model.model.language_model)
    products += 2 * shown * (_num_weights(model.model.video_tower) + _num_weights(model.model.multi_modal_projector))
    causal = 4 * num_tokens**2 * text.hidden_size * text.num_hidden_layers / 2
    full = 4 * num_patches**2 * NUM_FRAMES * vision.hidden_size * vision.num_hidden_layers
    return float(products + causal + full)


def _num_weights(module: nn.Module) -> int:
    return sum(part.in_features * part.out_features for part in module.modules() if isinstance(part, nn.Linear))


def _large(device: torch.device) -> int:  # bytes that no cache holds
    return 4 * GIB if device.type == "cuda" else GIB // 8


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
