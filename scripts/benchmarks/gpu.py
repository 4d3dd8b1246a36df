"""The table `gpu`: what a CUDA card gives, and how much of it generating takes, in the 7B's geometry.

Random weights are made on the card; nothing is read from a disk or fetched. Each way to generate is held against
`model.generate` in the same run, and against what the card's memory could do at most: a step reads every weight of the
language model once, and the KV cache. The first token of a clip is held against the card's rate of matrix products.
Memory's and products' rates are measured first. nf4 needs bitsandbytes; without it its rows say so.

    python scripts/bench.py gpu                                     # under ten minutes on an H200
    python scripts/bench.py gpu --device cpu --geometry mini        # to try the program itself, in seconds
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
from make_checkpoint import GEOMETRIES
from torch import nn
from transformers import VideoLlavaForConditionalGeneration
from transformers import __version__ as transformers_version

from benchmarks import card, nf4
from benchmarks.attention import attention_seconds
from benchmarks.loops import (
    Row,
    Side,
    Workload,
    first_difference,
    make_model,
    make_workload,
    measure,
    of_transformers,
    ours,
)
from benchmarks.machine import machine_line
from videollava_cli.engine.kv_cache import rounded_up
from videollava_cli.engine.loading import choose_device

NUM_EQUAL = 256  # tokens that static and dynamic decode are compared over
MAX_EAGER_ROWS = 8  # eager attention has all scores of a prefill in memory: 40 GB for 32 clips
REFERENCE = "model.generate"
STATIC = "ours, static decode"


@dataclass(frozen=True, slots=True)
class Fact:
    """One measured number; no value where it could not be measured, and the unit says why.

    `share` is how much it is of what `of` names, `against` the rate over that of `model.generate`.
    """

    name: str
    value: float | None
    unit: str
    share: float | None = None
    of: str = ""
    against: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device does at most: bytes read a second, and floating point operations a second."""

    bytes_per_second: float
    flops: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    parser.add_argument("--runs", type=int, default=3, help="of each side, after one that does not count")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1 or cpu")
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="7b", help="of the random weights")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="how many answers at once")
    parser.add_argument("--new-tokens", type=int, default=96, help="of each answer")
    parser.add_argument("--json", action="store_true", help="one object a row")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print each row as soon as it is known."""
    device = choose_device(options.device)
    if not options.json:
        print(f"{_header(device, options)}\n\n| | | | share | against {REFERENCE} |\n|---|--:|---|---|--:|")
    for fact in measure_card(device, options):
        print(json.dumps(asdict(fact)) if options.json else _cells(fact), flush=True)


def measure_card(device: torch.device, options: argparse.Namespace) -> Iterator[Fact]:
    """Measure the device, then generating in fp16 (on a CPU in fp32), then in nf4."""
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    copied, read = card.copy_rate(device), card.read_rate(device)
    limits = Limits(max(copied, read), card.matrix_rate(device, dtype))
    yield Fact("memory, copying", copied / 1e9, "GB/s")
    yield Fact("memory, reading", read / 1e9, "GB/s")
    yield Fact(f"matrix products, {dtype}", limits.flops / 1e12, "TFLOP/s")
    if device.type == "cuda":
        for kind, rate in card.upload_rates(device).items():
            yield Fact(f"upload from {kind} memory", rate / 1e9, "GB/s")
    model = make_model(options.geometry, device, dtype)
    yield Fact("weights", card.weight_bytes(model) / card.GIB, "GiB")
    yield from _generating("fp16" if dtype is torch.float16 else "fp32", model, limits, options)
    yield from _attention(model, options)
    yield from _equality(make_workload(model, options.geometry, 1, NUM_EQUAL))
    if not nf4.is_there():
        yield Fact("nf4", None, "not measured: bitsandbytes is not installed")
        return
    yield from _nf4_layers(model)
    nf4.quantize(model)
    yield Fact("weights, nf4", card.weight_bytes(model) / card.GIB, "GiB")
    yield from _generating("nf4", model, limits, options)


def _generating(
    name: str, model: VideoLlavaForConditionalGeneration, limits: Limits, options: argparse.Namespace
) -> Iterator[Fact]:
    """Measure each way to generate at each number of answers at once."""
    for batch in options.batches:
        workload = make_workload(model, options.geometry, batch, options.new_tokens)
        sides: dict[str, Side] = {STATIC: ours(static=True), "ours, dynamic decode": ours(static=False)}
        rows = measure(workload, sides | {REFERENCE: of_transformers}, options.runs)
        if batch <= MAX_EAGER_ROWS:
            model.set_attn_implementation("eager")
            rows += measure(workload, {f"{STATIC}, eager attention": ours(static=True)}, options.runs)
            model.set_attn_implementation("sdpa")
        reference = next(row for row in rows if row.side == REFERENCE)
        for row in rows:
            rate, *others = _facts(f"{name}, {batch} at once, {row.side}", workload, row, limits)
            yield replace(rate, against=row.rate / reference.rate)
            yield from others


def _facts(name: str, workload: Workload, row: Row, limits: Limits) -> Iterator[Fact]:
    """Tell what one side reached, and how much that is of what the device does at most."""
    num_tokens = workload.num_prompt_tokens + workload.num_new_tokens / 2  # in the cache, on average
    least = card.step_bytes(workload.model, row.num_rows, num_tokens) / limits.bytes_per_second
    yield Fact(name, row.rate, "tokens/s", row.rate * least / row.num_rows, "memory's limit")
    flops = row.num_rows * card.prefill_flops(workload.model, workload.num_prompt_tokens)
    share = flops / row.first_seconds / limits.flops
    yield Fact(f"{name}, first token", row.first_seconds * 1e3, "ms", share, "matrix products' rate")
    if row.peak_bytes is not None:
        yield Fact(f"{name}, peak memory", row.peak_bytes / card.GIB, "GiB")


def _equality(workload: Workload) -> Iterator[Fact]:
    """Tell whether static and dynamic decode give the same tokens, and if not what decided."""
    difference = first_difference(workload)
    name = f"static and dynamic decode, equal tokens of {NUM_EQUAL}"
    if difference is None:
        yield Fact(name, NUM_EQUAL, "tokens")
        return
    yield Fact(name, difference.at_token, "tokens")
    yield Fact("gap of the two logits at the first difference", difference.gap, "steps of the number format")


def _attention(model: VideoLlavaForConditionalGeneration, options: argparse.Namespace) -> Iterator[Fact]:
    """Measure one layer's attention at a step behind a clip."""
    text = model.config.get_text_config()
    heads = text.num_attention_heads, text.hidden_size // text.num_attention_heads
    room = rounded_up(model.config.video_seq_length + options.new_tokens)
    for batch in options.batches:
        for way, seconds in attention_seconds(batch, heads, room, model.device).items():
            yield Fact(f"attention of one layer, {batch} at once, {room} keys, {way}", seconds * 1e6, "us")


def _nf4_layers(model: VideoLlavaForConditionalGeneration) -> Iterator[Fact]:
    """Measure one of the largest layers at a step of one answer, of eight, and at the prefill of a clip."""
    layer = model.model.language_model.layers[0].mlp.up_proj
    assert isinstance(layer, nn.Linear)
    for num_tokens in (1, 8, model.config.video_seq_length):
        for way, seconds in nf4.layer_seconds(layer, num_tokens).items():
            yield Fact(f"one MLP layer, {num_tokens} tokens, {way}", seconds * 1e6, "us")


def _header(device: torch.device, options: argparse.Namespace) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no card"
    software = f"torch {torch.__version__}, transformers {transformers_version}"
    return f"{name}; {machine_line(options.runs)}; {software}; random weights: {options.geometry}"


def _cells(fact: Fact) -> str:
    value = "" if fact.value is None else f"{fact.value:.4g}"
    share = "" if fact.share is None else f"{fact.share:.0%} of {fact.of}"
    against = "" if fact.against is None else f"{fact.against:.2f}"
    return f"| {fact.name} | {value} | {fact.unit} | {share} | {against} |"
