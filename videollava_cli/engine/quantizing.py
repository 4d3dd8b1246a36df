"""How weights are quantized, a piece at a time on a CPU; knows bitsandbytes' operator, nothing of files."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from videollava_cli.settings import Settings

OPERATOR = "bitsandbytes::quantize_4bit"
PIECE_NUMBERS = 1 << 20  # a multiple of every block size of bitsandbytes (32 to 4,096), so no block is cut in two


def quantization_config(settings: Settings) -> transformers.BitsAndBytesConfig | None:
    """Return how transformers is to quantize weights while it loads them; None for not at all."""
    if settings.load_8bit:
        return transformers.BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    if settings.load_4bit:
        return transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16
        )
    return None


class QuantizingInPieces(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While this lasts, bitsandbytes quantizes to 4 bits piece by piece, with the same outcome.

    On a CPU it makes several temporary tensors of 4 bytes a number. For a whole weight at once they were the peak of
    loading (`scripts/bench load`).
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operator of torch, in pieces if it is the one that quantizes."""
        if func.name() != OPERATOR:
            return func(*args, **(kwargs or {}))
        weight, *how = args
        return _quantize(weight, lambda piece: func(piece, *how, **(kwargs or {})))


def _quantize(
    weight: torch.Tensor, quantize: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the packed numbers and the scale of each block."""
    packed, scales = zip(*map(quantize, torch.split(weight.reshape(-1), PIECE_NUMBERS)), strict=True)
    return torch.cat(packed), torch.cat(scales)
