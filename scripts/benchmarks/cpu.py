"""The table `cpu`: the 7B's geometry without a GPU, in bfloat16 and 4 bits, against the machine's limits and llama.cpp.

Each row is a process of its own: loading, one question about a clip of eight frames, and its answer. The limits are
measured in the same run: products of bfloat16, and reading memory. llama.cpp (the packages llama-cpp-python and gguf,
where --peer-python has them) runs a language model of the same sizes in Q4_0, with as many tokens and no clip.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from make_checkpoint import GEOMETRIES, make_checkpoint

from benchmarks import card, table
from benchmarks.table import BUILD, Record, spread

WAYS: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "4-bit": {"dtype": "bfloat16", "load_4bit": True},
}
PEER = "llama.cpp, Q4_0, language model alone"
ATTEMPTS = 5  # at each limit; the best one is taken


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    table.add_options(parser, runs=1, of="each row, in turn")
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="7b", help="of the random weights")
    parser.add_argument("--tokens", type=int, default=32, help="of the answer")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has llama-cpp-python and gguf")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    folder = BUILD / options.geometry
    if not (folder / "tokenizer.json").exists():
        make_checkpoint(folder, geometry=options.geometry)
    limits = measure_limits()
    _run_ours(folder, "4-bit", 1)  # quantizes, if that was not done before
    runs: dict[str, list[Record]] = {name: [] for name in (*WAYS, PEER)}
    for _ in range(options.runs):
        for name in WAYS:
            runs[name].append(_run_ours(folder, name, options.tokens))
        runs[PEER] += _run_peer(options, folder, runs["4-bit"][0]["prompt_tokens"])
    rates = f"{limits['flops'] / 1e9:.0f} GFLOP/s in bfloat16, {limits['bytes'] / 1e9:.0f} GB/s of memory"
    asked = f"{runs['4-bit'][0]['prompt_tokens']:,} prompt tokens, {options.tokens} new ones"
    printed = table.Table(options, COLUMNS, f"{options.geometry}: random weights", asked, f"limits: {rates}")
    for name, found in runs.items():
        if found:
            printed.add(_row(name, found, limits))
    if not runs[PEER]:
        printed.say(f"\n{PEER}: not measured, since {options.peer_python} lacks llama-cpp-python or gguf")


def measure_limits() -> dict[str, float]:
    """Return the operations of bfloat16 products and the bytes of memory that this machine does in a second."""
    tokens, weight = torch.randn(2048, 4096).bfloat16(), torch.randn(4096, 4096).bfloat16()
    flops = 2 * tokens.numel() * weight.shape[0]

    def product() -> object:
        return torch.nn.functional.linear(tokens, weight)

    device = torch.device("cpu")
    return {
        "flops": max(flops / card.seconds_of(product, device, repeats=3) for _ in range(ATTEMPTS)),
        "bytes": max(card.read_rate(device) for _ in range(ATTEMPTS)),
    }


COLUMNS: list[table.Column] = [
    ("way", "<", lambda row: row["name"]),
    ("load, s", ">", lambda row: spread(row["load_seconds"])),
    ("first token, s", ">", lambda row: spread(row["first_seconds"])),
    ("limit, s", ">", lambda row: _rounded(row["limit_first_seconds"])),
    ("tokens/s", ">", lambda row: spread(row["rates"])),
    ("limit", ">", lambda row: _rounded(row["limit_rate"])),
    ("peak, GB", ">", lambda row: f"{max(row['peak_bytes']) / 1e9:.1f}"),
]


def _row(name: str, runs: Sequence[Record], limits: Mapping[str, float]) -> Record:
    lists = {key: [run[key] for run in runs] for key in ("load_seconds", "first_seconds", "rates", "peak_bytes")}
    return lists | {
        "name": name,
        "limit_first_seconds": runs[0]["flops"] / limits["flops"] if "flops" in runs[0] else None,
        "limit_rate": limits["bytes"] / runs[0]["step_bytes"] if "step_bytes" in runs[0] else None,
        "limits": limits,
    }


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _run_ours(folder: Path, name: str, num_tokens: int) -> Record:
    settings = json.dumps(WAYS[name] | {"model": str(folder), "device": "cpu"})
    return _run([sys.executable, "-m", "benchmarks.cpu_child", settings, str(num_tokens)])


def _run_peer(options: argparse.Namespace, folder: Path, num_prompt_tokens: int) -> list[Record]:
    has_peer = [options.peer_python, "-c", "import llama_cpp, gguf"]
    if subprocess.run(has_peer, capture_output=True, check=False).returncode:
        return []
    text = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text_config"]
    sizes = {
        name: text[key]
        for name, key in (
            *(("width", "hidden_size"), ("inner", "intermediate_size"), ("layers", "num_hidden_layers")),
            *(("heads", "num_attention_heads"), ("vocabulary", "vocab_size"), ("context", "max_position_embeddings")),
        )
    }
    path = folder / "random-q4_0.gguf"
    numbers = map(str, (num_prompt_tokens, options.tokens))
    found = _run([options.peer_python, "-m", "benchmarks.llama_cpp_child", str(path), json.dumps(sizes), *numbers])
    return [found]


def _run(command: Sequence[str]) -> Record:
    environment = table.child_environment() | {"XDG_CACHE_HOME": str(BUILD / "cache")}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: Record = json.loads(done.stdout)
    return found
