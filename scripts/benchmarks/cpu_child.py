"""One question about a clip in a process of its own, for the table `cpu`: prints what it took and what it asks for.

python -m benchmarks.cpu_child SETTINGS_JSON NUM_TOKENS
"""

import json
import sys
from time import perf_counter

import numpy as np
from internals import status_bytes

from benchmarks import card
from videollava_cli import load
from videollava_cli.media import NUM_FRAMES


def main() -> None:
    """Load, ask, and print."""
    began = perf_counter()
    engine = load(**json.loads(sys.argv[1]))
    load_seconds = perf_counter() - began
    engine.model.generation_config.eos_token_id = None
    engine.model.config.get_text_config().eos_token_id = None
    side = engine.checkpoint.pixels.crop_side
    noise = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, side, side, 3), np.uint8)
    *_, last = engine.ask(noise, "What happens in this video?", max_new_tokens=int(sys.argv[2]))
    usage = last.usage
    assert usage is not None
    num_steps = usage.new_tokens - 1
    found = {
        "load_seconds": load_seconds,
        "first_seconds": usage.prefill_seconds,
        "rates": num_steps / usage.generate_seconds if num_steps else 0.0,
        "peak_bytes": status_bytes("VmHWM"),
        "prompt_tokens": usage.prompt_tokens,
        "flops": card.prefill_flops(engine.model, usage.prompt_tokens),
        "step_bytes": card.step_bytes(engine.model, 1, usage.prompt_tokens),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
