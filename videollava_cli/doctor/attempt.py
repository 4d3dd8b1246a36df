"""A script of its own, run in a child process: `python attempt.py four-bit|flash-attention DEVICE DTYPE`.

What it tries may end the process, as native code does on a processor or GPU that it was not built for. It ends with 0
when it ran, else with 1 after printing the reason as its last line. It must not import the rest of the package.
"""

import importlib
import sys
from typing import Any


def main() -> int:
    """Try, and tell why it does not work."""
    kind, device, dtype = sys.argv[1:]
    try:
        {"four-bit": try_four_bit, "flash-attention": try_flash_attention}[kind](device, dtype)
    except Exception as error:  # whatever keeps it from running is what is asked for
        lines = str(error).strip().splitlines()
        print(lines[0] if lines else type(error).__name__, flush=True)  # noqa: T201 (the parent reads it)
        return 1
    return 0


def try_four_bit(device: str, dtype: str) -> None:
    """Quantize a small layer as the loader does, and run it."""
    bitsandbytes: Any = importlib.import_module("bitsandbytes")
    import torch

    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float16, quant_type="nf4").to(device)
    with torch.inference_mode():
        _check(layer(torch.ones(1, 64, device=device, dtype=getattr(torch, dtype))))


def try_flash_attention(device: str, dtype: str) -> None:
    """Run Flash-Attention 2 on a few keys."""
    flash_attn: Any = importlib.import_module("flash_attn")
    import torch

    keys = torch.ones(1, 4, 2, 64, device=device, dtype=getattr(torch, dtype))
    _check(flash_attn.flash_attn_func(keys, keys, keys, causal=True))


def _check(result: object) -> None:
    import torch

    if not (isinstance(result, torch.Tensor) and bool(result.isfinite().all())):
        raise ArithmeticError("it ran, and its result is no number")


if __name__ == "__main__":
    sys.exit(main())
