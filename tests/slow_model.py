"""`vllava` on a slow computer: each layer of the language model waits, for a prompt or for a token; all else is real.

python slow_model.py prompt|token ARGUMENTS...
"""

import sys
import time
from typing import Any

import torch

from videollava_cli.cli import main

SECONDS = {"prompt": 0.8, "token": 0.01}


def wait(kind: str, layer: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
    """Wait in a layer of the language model, where it runs a prompt or a token."""
    if type(layer).__name__ == "LlamaDecoderLayer" and (inputs[0].shape[1] > 1) is (kind == "prompt"):
        time.sleep(SECONDS[kind])


if __name__ == "__main__":
    slow = sys.argv.pop(1)
    torch.nn.modules.module.register_module_forward_pre_hook(lambda *layer: wait(slow, *layer))
    sys.exit(main())
