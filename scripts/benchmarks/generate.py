"""The table `generate`: tokens a second of our loop, with dynamic and with static decode, against `model.generate`.

All sides get the same ids and pixel values, and answer in turn. `model.generate` runs on the cache that it takes by
itself, a `DynamicCache`. Seconds to the first token are those of the vision tower and the prefill.
"""

import argparse
import json
from collections.abc import Sequence

import torch
from make_checkpoint import GEOMETRIES

from benchmarks.loops import Row, make_model, make_workload, measure, of_transformers, ours, spread
from benchmarks.machine import machine_line
from videollava_cli.engine.loading import choose_device, choose_dtype

REFERENCE = "model.generate"
SIDES = {"dynamic": ours(static=False), "static": ours(static=True), REFERENCE: of_transformers}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    parser.add_argument("--runs", type=int, default=5, help="of each side, after one that does not count")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="wide", help="of the random weights")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="how many answers at once")
    parser.add_argument("--new-tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--json", action="store_true", help="one object a row, with every single time")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    device = choose_device(options.device)
    dtype = choose_dtype("auto", device)
    model = make_model(options.geometry, device, dtype)
    rows = []
    for batch in options.batches:
        rows += measure(make_workload(model, options.geometry, batch, options.new_tokens), SIDES, options.runs)
    if options.json:
        for row in rows:
            print(json.dumps(row.told() | {"ratio": row.rate / _reference(rows, row).rate}))
        return
    millions = sum(tensor.numel() for tensor in model.parameters()) / 1e6
    weights = f"{options.geometry}: {millions:.0f} M random weights, {dtype}, on {device}"
    print(f"{machine_line(options.runs)}; torch {torch.__version__}, {torch.get_num_threads()} threads; {weights}\n")
    print(
        "| answers at once | | tokens/s (min to max) | against | first token, s (min to max) |\n|--:|---|--:|--:|--:|"
    )
    for row in rows:
        rates = spread([run.tokens_per_second for run in row.runs])
        firsts = spread([run.first_seconds for run in row.runs], digits=3)
        print(f"| {row.num_rows} | {row.side} | {rates} | {row.rate / _reference(rows, row).rate:.2f} | {firsts} |")


def _reference(rows: Sequence[Row], row: Row) -> Row:
    return next(each for each in rows if each.side == REFERENCE and each.num_rows == row.num_rows)
