"""One load in a process of its own, for the table `load`: prints seconds, bytes and the tokens of an answer.

python -m benchmarks.load_child SETTINGS_JSON NUM_TOKENS CACHE_HOME
"""

import json
import os
import sys
from pathlib import Path
from time import perf_counter

import bitsandbytes  # noqa: F401 (what the first use of 4 bits would import)
import torch
from internals import status_bytes

from benchmarks import documented
from videollava_cli import Engine, load
from videollava_cli.engine.loading import quiet_libraries
from videollava_cli.media import NUM_FRAMES


def main() -> None:
    """Load, and print what it took."""
    settings, num_tokens = json.loads(sys.argv[1]), int(sys.argv[2])
    os.environ["XDG_CACHE_HOME"] = sys.argv[3]
    if settings["device"].startswith("cuda"):
        torch.zeros(1, device=settings["device"])  # the context is no part of loading
    before = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here (proc(5))
    began = perf_counter()
    engine = load(**settings)
    seconds = perf_counter() - began
    parameters = list(engine.model.parameters())
    states = [getattr(parameter, "quant_state", None) for parameter in parameters]
    tensors = [*parameters, *engine.model.buffers(), *(state.absmax for state in states if state is not None)]
    for tensor in tensors:
        tensor.view(torch.uint8).max() if tensor.dim() else None  # mapped weights become resident
    found = {"seconds": seconds, "peak_bytes": status_bytes("VmHWM") - before}
    found["weight_bytes"] = sum(tensor.nbytes for tensor in tensors)
    print(json.dumps(found | {"tokens": _tokens(engine, num_tokens) if num_tokens else []}))


def _tokens(engine: Engine, num_tokens: int) -> list[int]:
    model, side = engine.model, engine.checkpoint.pixels.crop_side
    model.generation_config.eos_token_id = None
    model.config.get_text_config().eos_token_id = None
    inputs = documented.text_inputs(model, engine.tokenizer, ["<video>What happens?"])
    noise = torch.randn((1, NUM_FRAMES, 3, side, side), generator=torch.Generator().manual_seed(0))
    inputs["pixel_values_videos"] = noise.to(model.device, model.dtype)
    with quiet_libraries():
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=num_tokens)  # type: ignore[misc]
    return [int(number) for number in ids[0, inputs["input_ids"].shape[1] :]]


if __name__ == "__main__":
    main()
