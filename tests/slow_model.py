"""`vllava` on a slow computer: each layer of the language model takes its time for a prompt; all else is real."""

import sys
import time
from typing import Any

import torch

from videollava_cli.cli import main


def wait_in_prompt(layer: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
    """Wait in a layer of the language model, but not for one token."""
    if type(layer).__name__ == "LlamaDecoderLayer" and inputs[0].shape[1] > 1:
        time.sleep(0.8)


if __name__ == "__main__":
    torch.nn.modules.module.register_module_forward_pre_hook(wait_in_prompt)
    sys.exit(main())
