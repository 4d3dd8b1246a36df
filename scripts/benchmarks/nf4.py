"""Weights of 4 bits made in memory, and what a layer of them takes by each way to multiply it."""

import importlib.util
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from benchmarks.card import seconds_of


def is_there() -> bool:
    """Return whether bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def quantize(module: nn.Module) -> None:
    """Put layers of 4 bits in the place of all linear ones, but for `lm_head`, as transformers does when it loads."""
    for name, child in module.named_children():
        if type(child) is nn.Linear and name != "lm_head":
            setattr(module, name, quantized(child))
        else:
            quantize(child)


def quantized(layer: nn.Linear) -> Any:
    """Return a linear layer in nf4, on its device, with the settings that vllava loads with."""
    from bitsandbytes import nn as bitsandbytes_nn

    library: Any = bitsandbytes_nn  # typed in part
    kind = {"compress_statistics": False, "quant_type": "nf4"}
    sizes = layer.in_features, layer.out_features
    small = library.Linear4bit(*sizes, bias=False, compute_dtype=torch.float16, device="meta", **kind)
    small.weight = library.Params4bit(layer.weight.detach(), requires_grad=False, **kind).to(layer.weight.device)
    small.bias = layer.bias
    return small


@torch.inference_mode()
def layer_seconds(layer: nn.Linear, num_tokens: int) -> dict[str, float]:
    """Return the seconds of a layer: as it is, in nf4 (one token is multiplied without unpacking), and unpacked."""
    from bitsandbytes.functional import dequantize_4bit

    small = quantized(layer)
    packed, device = small.weight, layer.weight.device
    tokens = torch.randn(1, num_tokens, layer.in_features, device=device).to(layer.weight.dtype)

    def whole() -> torch.Tensor:
        unpacked: torch.Tensor = dequantize_4bit(packed.data, packed.quant_state)
        return unpacked

    return {
        "unquantized": seconds_of(lambda: layer(tokens), device),
        "nf4": seconds_of(lambda: small(tokens), device),
        "nf4, dequantized first": seconds_of(lambda: linear(tokens, whole().to(tokens.dtype)), device),
        "dequantizing alone": seconds_of(whole, device),
    }
