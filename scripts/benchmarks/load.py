"""The table `load`: weights from files to a device, each time in a process of its own, against reading the files.

Memory is the peak of resident memory (VmHWM of Linux: own memory and mapped pages of files, those of the weights too)
above what was resident after the imports; the weights are read once more before the peak is taken, so that mapped
ones count. Seconds begin after the imports. Files come from the page cache: they were just read.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from make_checkpoint import GEOMETRIES, make_checkpoint

from benchmarks.machine import BUILD, machine_line

ROWS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "4-bit, quantizing": {"load_4bit": True, "cache": False},
    "4-bit, kept": {"load_4bit": True},
}
CHILD = Path(__file__).with_name("load_child.py")


@dataclass(slots=True)
class Row:
    """One way of loading: seconds of each run, the peak's ratio to the weights in each, and the answer's tokens."""

    name: str
    weight_bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    peak_ratios: list[float] = field(default_factory=list)
    cpu_peak_bytes: int = 0
    tokens: list[int] = field(default_factory=list)

    def cells(self, largest: int) -> str:
        """Return the row of a table; `largest` is the size of the largest file in bytes."""
        ratios = f"{max(self.peak_ratios):.2f} | {self.cpu_peak_bytes / largest:.2f}"
        peak = f"{self.cpu_peak_bytes / 1e9:.2f} | {ratios}"
        return f"| {self.name} | {spread(self.seconds)} | {self.weight_bytes / 1e9:.2f} | {peak} |"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    parser.add_argument("--runs", type=int, default=5, help="of each row")
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="1b", help="of the random weights")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: memory is that of the host in both")
    parser.add_argument("--tokens", type=int, default=16, help="of the answer that both 4-bit rows must agree on")
    parser.add_argument("--only-4-bit", action="store_true", help="leave out the rows of 16 and 32 bits")
    parser.add_argument("--json", action="store_true", help="one object a row, with every single time")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    folder = BUILD / f"load-{options.geometry}"
    if not (folder / "tokenizer.json").exists():
        make_checkpoint(folder, geometry=options.geometry)
    files = sorted(folder.glob("*.safetensors"))
    rows, reading = measure_load(folder, files, options)
    quantizing, kept = rows["4-bit, quantizing"], rows["4-bit, kept"]
    sums = {
        "quantizing_over_kept": median(quantizing.seconds) / median(kept.seconds),
        "same_tokens": sum(a == b for a, b in zip(quantizing.tokens, kept.tokens, strict=True)),
        "tokens": len(kept.tokens),
    }
    if options.json:
        read = [{"name": name, "seconds": seconds} for name, seconds in reading.items()]
        for line in [*map(asdict, rows.values()), *read, sums]:
            print(json.dumps(line))
        return
    num_bytes = sum(path.stat().st_size for path in files)
    largest = max(path.stat().st_size for path in files)
    print(
        f"{machine_line(options.runs)}; {options.geometry}: {num_bytes / 1e9:.2f} GB of random weights in "
        f"{len(files)} files, the largest {largest / 1e9:.2f} GB; to {options.device}\n"
    )
    print("| way | s (min to max) | weights, GB | peak of memory, GB | peak / weights | peak / largest file |")
    print("|---|--:|--:|--:|--:|--:|")
    for row in rows.values():
        print(row.cells(largest))
    for name, seconds in reading.items():
        print(f"| {name} | {spread(seconds)} | | | | |")
    print(
        f"\nquantizing takes {sums['quantizing_over_kept']:.1f} times as long as loading what was kept; "
        f"{sums['same_tokens']} of {sums['tokens']} tokens are the same"
    )


def measure_load(
    folder: Path, files: Sequence[Path], options: argparse.Namespace
) -> tuple[dict[str, Row], dict[str, list[float]]]:
    """Load in each way in turn, so many times, and read the files in between.

    Returns:
        The rows by name, and the seconds of `cat` and of reading with a copy.
    """
    rows = {name: Row(name) for name in ROWS if name.startswith("4-bit") or not options.only_4_bit}
    reading: dict[str, list[float]] = {"cat FILES > /dev/null": [], "reading and copying the files": []}
    with TemporaryDirectory(dir=BUILD) as home:
        _run_child(folder, "4-bit, kept", 0, home, options.device)  # makes what is kept
        for run in range(options.runs):
            for name, row in rows.items():
                cat, copying = reading_seconds(files)
                reading["cat FILES > /dev/null"].append(cat)
                reading["reading and copying the files"].append(copying)
                num_tokens = options.tokens if not run and name.startswith("4-bit") else 0
                _add(row, _run_child(folder, name, num_tokens, home, options.device))
    return rows, reading


def reading_seconds(files: Sequence[Path]) -> tuple[float, float]:
    """Return the seconds that reading files takes: by `cat` to nowhere, and into fresh memory of their size."""
    began = perf_counter()
    subprocess.run(["sh", "-c", 'cat "$@" > /dev/null', "sh", *map(str, files)], check=True)
    cat = perf_counter() - began
    began = perf_counter()
    for path in files:
        np.fromfile(path, np.uint8)
    return cat, perf_counter() - began


def spread(seconds: Sequence[float]) -> str:
    """Return the median of some seconds, with the least and the most."""
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def _run_child(folder: Path, name: str, num_tokens: int, home: str, device: str) -> dict[str, Any]:
    settings = json.dumps(ROWS[name] | {"model": str(folder), "device": device})
    run = [sys.executable, str(CHILD), settings, str(num_tokens), home]
    done = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _add(row: Row, found: dict[str, Any]) -> None:
    """Note one run."""
    row.seconds.append(found["seconds"])
    row.weight_bytes = found["weight_bytes"]
    row.tokens = row.tokens or found["tokens"]
    row.cpu_peak_bytes = max(row.cpu_peak_bytes, found["peak_bytes"])
    row.peak_ratios.append(found["peak_bytes"] / found["weight_bytes"])
