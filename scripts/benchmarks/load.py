"""The table `load`: weights from files in the page cache to a device, a process each, against reading the files.

Seconds begin after the imports; memory is the peak of resident memory (VmHWM of Linux) above that after the imports.
All weights are read before the peak is taken, so that mapped ones count.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from make_checkpoint import GEOMETRIES, make_checkpoint

from benchmarks import table
from benchmarks.table import BUILD, Record, spread

WAYS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "4-bit, quantizing": {"load_4bit": True, "cache": False},
    "4-bit, kept": {"load_4bit": True},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    table.add_options(parser, runs=5, of="each row")
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="1b", help="of the random weights")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: memory is that of the host in both")
    parser.add_argument("--tokens", type=int, default=16, help="of the answer that both 4-bit rows must agree on")
    parser.add_argument("--only-4-bit", action="store_true", help="leave out the rows of 16 and 32 bits")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    folder = BUILD / f"load-{options.geometry}"
    if not (folder / "tokenizer.json").exists():
        make_checkpoint(folder, geometry=options.geometry)
    files = sorted(folder.glob("*.safetensors"))
    sizes = [path.stat().st_size for path in files]
    weights = f"{options.geometry}: {sum(sizes) / 1e9:.2f} GB of random weights in {len(files)} files"
    largest = f"the largest {max(sizes) / 1e9:.2f} GB"
    rows = measure_load(folder, files, options)
    printed = table.Table(options, _columns(max(sizes)), f"{weights}, {largest}", f"to {options.device}")
    for row in rows.values():
        printed.add(row)
    quantizing, kept = rows["4-bit, quantizing"], rows["4-bit, kept"]
    times = median(quantizing["seconds"]) / median(kept["seconds"])
    same = sum(a == b for a, b in zip(quantizing["tokens"], kept["tokens"], strict=True))
    num_tokens = len(kept["tokens"])
    sums = f"quantizing takes {times:.1f} times as long as loading what was kept"
    printed.say(f"\n{sums}; {same} of {num_tokens} tokens are the same")
    if options.json:
        print(json.dumps({"quantizing_over_kept": times, "same_tokens": same, "tokens": num_tokens}))


def _columns(largest: int) -> list[table.Column]:
    of_weights: dict[str, Callable[[Record], float]] = {
        "weights, GB": lambda row: row["weight_bytes"] / 1e9,
        "peak of memory, GB": lambda row: row["cpu_peak_bytes"] / 1e9,
        "peak / weights": lambda row: max(row["peak_ratios"]),
        "peak / largest file": lambda row: row["cpu_peak_bytes"] / largest,
    }
    return [
        ("way", "<", lambda row: row["name"]),
        ("s (min to max)", ">", lambda row: spread(row["seconds"])),
        *(
            (name, ">", lambda row, number=number: f"{number(row):.2f}" if "tokens" in row else "")
            for name, number in of_weights.items()
        ),
    ]


def measure_load(folder: Path, files: Sequence[Path], options: argparse.Namespace) -> dict[str, Record]:
    """Load in each way in turn, so many times, and read the files in between, by `cat` and with a copy."""
    rows: dict[str, Record] = {
        name: {"name": name, "weight_bytes": 0, "seconds": [], "peak_ratios": [], "cpu_peak_bytes": 0, "tokens": []}
        for name in WAYS
        if name.startswith("4-bit") or not options.only_4_bit
    }
    ways = list(rows)
    cat: Record = {"name": "cat FILES > /dev/null", "seconds": []}
    copying: Record = {"name": "reading and copying the files", "seconds": []}
    with TemporaryDirectory(dir=BUILD) as home:
        _run_child(folder, "4-bit, kept", 0, home, options.device)  # makes what is kept
        for run in range(options.runs):
            for name in ways:
                began = perf_counter()
                subprocess.run(["sh", "-c", 'cat "$@" > /dev/null', "sh", *map(str, files)], check=True)
                cat["seconds"].append(perf_counter() - began)
                began = perf_counter()
                for path in files:
                    np.fromfile(path, np.uint8)  # into fresh memory of its size
                copying["seconds"].append(perf_counter() - began)
                num_tokens = options.tokens if not run and name.startswith("4-bit") else 0
                found, row = _run_child(folder, name, num_tokens, home, options.device), rows[name]
                row["seconds"].append(found["seconds"])
                row["weight_bytes"] = found["weight_bytes"]
                row["tokens"] = row["tokens"] or found["tokens"]
                row["cpu_peak_bytes"] = max(row["cpu_peak_bytes"], found["peak_bytes"])
                row["peak_ratios"].append(found["peak_bytes"] / found["weight_bytes"])
    return rows | {row["name"]: row for row in (cat, copying)}


def _run_child(folder: Path, name: str, num_tokens: int, home: str, device: str) -> dict[str, Any]:
    settings = json.dumps(WAYS[name] | {"model": str(folder), "device": device})
    command = [sys.executable, "-m", "benchmarks.load_child", settings, str(num_tokens), home]
    done = subprocess.run(command, env=table.child_environment(), check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
