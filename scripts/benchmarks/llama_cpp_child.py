"""A prompt and decode steps of llama.cpp in a process of its own, for the table `cpu`: prints what they took.

It needs llama-cpp-python, gguf and numpy only. The language model is written once: random Q4_0 weights, no vocabulary.

python -m benchmarks.llama_cpp_child FILE SIZES_JSON NUM_PROMPT_TOKENS NUM_TOKENS
"""

import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from llama_cpp import Llama

BLOCK_NUMBERS, BLOCK_BYTES = 32, 18  # of Q4_0: a scale in float16, and 32 numbers in 4 bits (ggml-common.h)
SCALE = 0.004  # so that weights spread by about 0.02, as trained ones do
NORM_EPSILON = 1e-5  # Vicuna's, as in Video-LLaVA's config.json


def main() -> None:
    """Write the weights if need be, run, and print."""
    path, sizes = Path(sys.argv[1]), json.loads(sys.argv[2])
    num_prompt_tokens, num_tokens = map(int, sys.argv[3:])
    if not path.exists():
        write_model(path, sizes)
    began = perf_counter()
    num_threads = os.cpu_count()
    model = Llama(str(path), n_ctx=sizes["context"], n_threads=num_threads, n_threads_batch=num_threads, verbose=False)
    load_seconds = perf_counter() - began
    prompt = np.random.default_rng(0).integers(10, sizes["vocabulary"], num_prompt_tokens).tolist()
    began = perf_counter()
    model.eval(prompt)
    first = perf_counter()
    for _ in range(num_tokens - 1):
        model.eval(prompt[:1])  # whichever comes: each takes as long
    ended = perf_counter()
    found = {
        "load_seconds": load_seconds,
        "first_seconds": first - began,
        "rates": (num_tokens - 1) / (ended - first),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "prompt_tokens": num_prompt_tokens,
    }
    print(json.dumps(found))


def write_model(path: Path, sizes: Mapping[str, int]) -> None:
    """Write a Llama of these sizes with random weights; matrices of one shape have the same numbers."""
    width, inner, vocabulary = sizes["width"], sizes["inner"], sizes["vocabulary"]
    draft = path.with_suffix(".draft")
    writer = GGUFWriter(draft, "llama")
    writer.add_context_length(sizes["context"])
    writer.add_embedding_length(width)
    writer.add_block_count(sizes["layers"])
    writer.add_feed_forward_length(inner)
    writer.add_head_count(sizes["heads"])
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_rope_dimension_count(width // sizes["heads"])
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("none")
    norm = np.ones(width, np.float32)
    shapes = {"attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width)}
    shapes |= {"attn_output": (width, width), "ffn_gate": (inner, width), "ffn_up": (inner, width)}
    matrices = {shape: _random(*shape) for shape in {*shapes.values(), (width, inner), (vocabulary, width)}}
    named = {"token_embd": (vocabulary, width), "output": (vocabulary, width)}
    for layer in range(sizes["layers"]):
        named |= {f"blk.{layer}.{name}": shape for name, shape in (shapes | {"ffn_down": (width, inner)}).items()}
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", norm)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", norm)
    writer.add_tensor("output_norm.weight", norm)
    for name, shape in named.items():
        writer.add_tensor(f"{name}.weight", matrices[shape], raw_dtype=GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    draft.rename(path)


def _random(num_rows: int, num_columns: int) -> np.ndarray:
    numbers = np.random.default_rng(num_rows)
    blocks = numbers.integers(0, 256, (num_rows, num_columns // BLOCK_NUMBERS, BLOCK_BYTES), np.uint8)
    blocks[..., :2] = np.array([SCALE], np.float16).view(np.uint8)
    return blocks.reshape(num_rows, -1)


if __name__ == "__main__":
    main()
