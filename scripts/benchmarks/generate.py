"""The table `generate`: tokens a second of our loop, with growing and with fixed steps, against `model.generate`.

All sides get the same ids and pixel values, and answer in turn. `model.generate` runs on the cache that it takes by
itself, a `DynamicCache`. Seconds to the first token are those of the vision tower and the prefill.
"""

import argparse

import torch
from make_checkpoint import GEOMETRIES

from benchmarks import table
from benchmarks.loops import REFERENCE, Side, make_model, make_workload, measure, of_transformers, ours, with_ratios
from benchmarks.table import spread
from videollava_cli.engine.loading import choose_device, choose_dtype

SIDES: dict[str, Side] = {"growing": ours("growing"), "fixed": ours("fixed"), REFERENCE: of_transformers}
COLUMNS: tuple[table.Column, ...] = (
    ("answers at once", ">", lambda row: row["batch"]),
    ("", "<", lambda row: row["side"]),
    ("tokens/s (min to max)", ">", lambda row: spread(row["tokens_per_second"], 1)),
    ("against", ">", lambda row: f"{row['ratio']:.2f}"),
    ("first token, s (min to max)", ">", lambda row: spread(row["first_seconds"], 3)),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    table.add_options(parser, runs=5)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="wide", help="of the random weights")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="how many answers at once")
    parser.add_argument("--new-tokens", type=int, default=32, help="of each answer")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print."""
    device = choose_device(options.device)
    dtype = choose_dtype("auto", device)
    model = make_model(options.geometry, device, dtype)
    millions = sum(tensor.numel() for tensor in model.parameters()) / 1e6
    weights = f"{options.geometry}: {millions:.0f} M random weights, {dtype}, on {device}"
    software = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    printed = table.Table(options, COLUMNS, table.machine_line(options, software, weights))
    for batch in options.batches:
        workload = make_workload(model, options.geometry, batch, options.new_tokens)
        for row in with_ratios(list(measure(workload, SIDES, options.runs))):
            printed.add(row)
