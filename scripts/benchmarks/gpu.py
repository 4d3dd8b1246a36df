"""The table `gpu`: what a CUDA card gives, and how much of it generating takes, in the 7B's geometry.

Weights are random and made on the card. Each side is compared with `model.generate`, and its rate with what the card's
memory allows: a step reads every weight of the language model once, and the KV cache. The first token is compared with
the card's rate of matrix products. Both rates are measured first.

    python scripts/bench.py gpu                                     # under ten minutes on an H200
    python scripts/bench.py gpu --device cpu --geometry mini        # to try the program itself, in seconds
"""

import argparse
import importlib.util
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from make_checkpoint import GEOMETRIES
from torch import nn
from torch.nn.functional import linear
from transformers import VideoLlavaForConditionalGeneration
from transformers import __version__ as transformers_version

from benchmarks import card, generate, table
from benchmarks.generate import REFERENCE, Side, Workload, make_model, make_workload, of_transformers, ours
from benchmarks.table import Record
from videollava_cli.engine.kv_cache import rounded_up
from videollava_cli.engine.loading import choose_device

NUM_EQUAL = 256  # tokens that static and dynamic decode are compared over
MAX_EAGER_ROWS = 8  # eager attention has all scores of a prefill in memory: 40 GB for 32 clips
STATIC = "ours, static decode"
COLUMNS: tuple[table.Column, ...] = (
    ("", "<", lambda fact: fact["name"]),
    ("", ">", lambda fact: "" if fact["value"] is None else f"{fact['value']:.4g}"),
    ("", "<", lambda fact: fact["unit"]),
    ("share", "<", lambda fact: "" if fact["share"] is None else f"{fact['share']:.0%} of {fact['of']}"),
    (f"against {REFERENCE}", ">", lambda fact: "" if fact["against"] is None else f"{fact['against']:.2f}"),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One measured number; where it has no value, the unit says why."""

    name: str
    value: float | None
    unit: str
    share: float | None = None  # of what `of` names
    of: str = ""
    against: float | None = None  # over the rate of `model.generate`


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this table."""
    table.add_options(parser, runs=3)
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1 or cpu")
    parser.add_argument("--geometry", choices=list(GEOMETRIES), default="7b", help="of the random weights")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="how many answers at once")
    parser.add_argument("--new-tokens", type=int, default=96, help="of each answer")


def print_table(options: argparse.Namespace) -> None:
    """Measure and print each row as soon as it is known."""
    device = choose_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no card"
    software = f"torch {torch.__version__}, transformers {transformers_version}"
    printed = table.Table(options, COLUMNS, name, software, f"random weights: {options.geometry}")
    for fact in measure_card(device, options):
        printed.add(asdict(fact))


def measure_card(device: torch.device, options: argparse.Namespace) -> Iterator[Fact]:
    """Measure the device, then generating in fp16 (on a CPU in fp32), then in nf4."""
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    copied, read = card.copy_rate(device), card.read_rate(device)
    limits = max(copied, read), card.matrix_rate(device, dtype)
    yield Fact("memory, copying", copied / 1e9, "GB/s")
    yield Fact("memory, reading", read / 1e9, "GB/s")
    yield Fact(f"matrix products, {dtype}", limits[1] / 1e12, "TFLOP/s")
    if device.type == "cuda":
        for kind, rate in card.upload_rates(device).items():
            yield Fact(f"upload from {kind} memory", rate / 1e9, "GB/s")
    model = make_model(options.geometry, device, dtype)
    yield Fact("weights", card.weight_bytes(model) / card.GIB, "GiB")
    yield from _generating("fp16" if dtype is torch.float16 else "fp32", model, limits, options)
    yield from _attention(model, options)
    yield from _equality(make_workload(model, options.geometry, 1, NUM_EQUAL))
    if importlib.util.find_spec("bitsandbytes") is None:
        yield Fact("nf4", None, "not measured: bitsandbytes is not installed")
        return
    yield from _nf4_layers(model)
    _quantize(model)
    yield Fact("weights, nf4", card.weight_bytes(model) / card.GIB, "GiB")
    yield from _generating("nf4", model, limits, options)


def _generating(
    name: str, model: VideoLlavaForConditionalGeneration, limits: tuple[float, float], options: argparse.Namespace
) -> Iterator[Fact]:
    for batch in options.batches:
        workload = make_workload(model, options.geometry, batch, options.new_tokens)
        static, dynamic = partial(ours, steps="static"), partial(ours, steps="dynamic")
        sides: dict[str, Side] = {STATIC: static, "ours, dynamic decode": dynamic, REFERENCE: of_transformers}
        rows = list(generate.measure(workload, sides, options.runs))
        if batch <= MAX_EAGER_ROWS:
            model.set_attn_implementation("eager")
            rows += generate.measure(workload, {f"{STATIC}, eager attention": static}, options.runs)
            model.set_attn_implementation("sdpa")
        for row in generate.with_ratios(rows):
            yield from _facts(f"{name}, {batch} at once, {row['side']}", workload, row, limits)


def _facts(name: str, workload: Workload, row: Record, limits: tuple[float, float]) -> Iterator[Fact]:
    bytes_per_second, flops = limits
    rate, first_seconds = median(row["tokens_per_second"]), median(row["first_seconds"])
    num_rows, num_prompt_tokens = workload.num_rows, len(workload.token_ids)
    num_tokens = num_prompt_tokens + workload.num_new_tokens / 2  # in the cache, on average
    least = card.step_bytes(workload.model, num_rows, num_tokens) / bytes_per_second
    yield Fact(name, rate, "tokens/s", rate * least / num_rows, "memory's limit", row["ratio"])
    share = num_rows * card.prefill_flops(workload.model, num_prompt_tokens) / first_seconds / flops
    yield Fact(f"{name}, first token", first_seconds * 1e3, "ms", share, "matrix products' rate")
    if row["peak_bytes"]:
        yield Fact(f"{name}, peak memory", row["peak_bytes"] / card.GIB, "GiB")


def _equality(workload: Workload) -> Iterator[Fact]:
    difference = generate.first_difference(workload)
    num_equal = difference.at_token if difference else NUM_EQUAL
    yield Fact(f"static and dynamic decode, equal tokens of {NUM_EQUAL}", num_equal, "tokens")
    if difference:
        yield Fact("gap of the two logits at the first difference", difference.gap, "steps of the number format")


def _attention(model: VideoLlavaForConditionalGeneration, options: argparse.Namespace) -> Iterator[Fact]:
    text = model.config.get_text_config()
    heads = text.num_attention_heads, text.hidden_size // text.num_attention_heads
    num_keys = rounded_up(model.config.video_seq_length + options.new_tokens)
    for batch in options.batches:
        for way, seconds in card.attention_seconds(batch, heads, num_keys, model.device).items():
            yield Fact(f"attention of one layer, {batch} at once, {num_keys} keys, {way}", seconds * 1e6, "us")


def _nf4_layers(model: VideoLlavaForConditionalGeneration) -> Iterator[Fact]:
    layer = model.model.language_model.layers[0].mlp.up_proj
    assert isinstance(layer, nn.Linear)
    for num_tokens in (1, 8, model.config.video_seq_length):  # a step of one answer, of eight, and a clip's prefill
        for way, seconds in _layer_seconds(layer, num_tokens).items():
            yield Fact(f"one MLP layer, {num_tokens} tokens, {way}", seconds * 1e6, "us")


def _quantize(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear and name != "lm_head":  # as transformers loads
            setattr(module, name, _quantized(child))
        else:
            _quantize(child)


def _quantized(layer: nn.Linear) -> Any:
    from bitsandbytes import nn as bitsandbytes_nn

    library: Any = bitsandbytes_nn  # typed in part
    kind = {"compress_statistics": False, "quant_type": "nf4"}  # as vllava loads
    sizes = layer.in_features, layer.out_features
    small = library.Linear4bit(*sizes, bias=False, compute_dtype=torch.float16, device="meta", **kind)
    small.weight = library.Params4bit(layer.weight.detach(), requires_grad=False, **kind).to(layer.weight.device)
    small.bias = layer.bias
    return small


@torch.inference_mode()
def _layer_seconds(layer: nn.Linear, num_tokens: int) -> dict[str, float]:
    """Return the seconds of a layer: as it is, in nf4 (one token is multiplied without unpacking), and unpacked."""
    from bitsandbytes.functional import dequantize_4bit

    small = _quantized(layer)
    packed, device = small.weight, layer.weight.device
    tokens = torch.randn(1, num_tokens, layer.in_features, device=device).to(layer.weight.dtype)

    def whole() -> Any:
        return dequantize_4bit(packed.data, packed.quant_state)

    return {
        "unquantized": card.seconds_of(lambda: layer(tokens), device),
        "nf4": card.seconds_of(lambda: small(tokens), device),
        "nf4, dequantized first": card.seconds_of(lambda: linear(tokens, whole().to(tokens.dtype)), device),
        "dequantizing alone": card.seconds_of(whole, device),
    }
