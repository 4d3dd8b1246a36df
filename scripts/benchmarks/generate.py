"""The table `generate`: tokens a second of our loop, with dynamic and with static decode, against `model.generate`.

All sides get the same ids and pixel values; `model.generate` runs on its default cache, a `DynamicCache`. Seconds to
the first token are those of the vision tower and the prefill.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from internals import Steps, generate_ids
from make_checkpoint import GEOMETRIES, make_config, make_tokenizer
from transformers import AutoModelForImageTextToText, VideoLlavaForConditionalGeneration
from transformers.generation.streamers import BaseStreamer

from benchmarks import table
from benchmarks.table import Record, in_turn, spread
from videollava_cli.engine.loading import choose_device, quiet_libraries
from videollava_cli.media import NUM_FRAMES

QUESTION = "USER: <video>\nWhat happens in this video? ASSISTANT:"
REFERENCE = "model.generate"
COLUMNS: tuple[table.Column, ...] = (
    ("answers at once", ">", lambda row: row["batch"]),
    ("", "<", lambda row: row["side"]),
    ("tokens/s (min to max)", ">", lambda row: spread(row["tokens_per_second"], 1)),
    ("against", ">", lambda row: f"{row['ratio']:.2f}"),
    ("first token, s (min to max)", ">", lambda row: spread(row["first_seconds"], 3)),
)


class Workload(NamedTuple):
    """Answers of so many tokens to a question about clips of noise, pixel values (B, 8, 3, S, S): a row a clip."""

    model: VideoLlavaForConditionalGeneration
    token_ids: tuple[int, ...]
    pixel_values: torch.Tensor
    num_new_tokens: int

    @property
    def num_rows(self) -> int:
        return len(self.pixel_values)

    def generate(self, steps: Steps) -> Iterator[list[int]]:
        return generate_ids(self.model, self.token_ids, self.pixel_values, self.num_new_tokens, steps=steps)


Side = Callable[[Workload], list[float]]  # runs a workload; returns seconds from its start to each token


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
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    model = make_model(options.geometry, device, dtype)
    millions = sum(tensor.numel() for tensor in model.parameters()) / 1e6
    weights = f"{options.geometry}: {millions:.0f} M random weights, {dtype}, on {device}"
    software = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    sides: dict[str, Side] = {
        "dynamic decode": partial(ours, steps="dynamic"),
        "static decode": partial(ours, steps="static"),
        REFERENCE: of_transformers,
    }
    printed = table.Table(options, COLUMNS, software, weights)
    for batch in options.batches:
        workload = make_workload(model, options.geometry, batch, options.new_tokens)
        for row in with_ratios(list(measure(workload, sides, options.runs))):
            printed.add(row)


def make_model(geometry: str, device: torch.device, dtype: torch.dtype) -> VideoLlavaForConditionalGeneration:
    """Make random weights on a device, never on a disk; answers of them end at no id."""
    torch.manual_seed(0)
    with quiet_libraries(), device:
        model: Any = AutoModelForImageTextToText.from_config(make_config(geometry), dtype=dtype)  # type: ignore[no-untyped-call]
    assert isinstance(model, VideoLlavaForConditionalGeneration)
    model.train(mode=False)
    model.generation_config.eos_token_id = None
    model.config.get_text_config().eos_token_id = None
    return model


def make_workload(
    model: VideoLlavaForConditionalGeneration, geometry: str, num_rows: int, num_new_tokens: int
) -> Workload:
    """Make clips of noise and the prompts about them."""
    text = QUESTION.replace("<video>", "<video>" * model.config.video_seq_length)
    ids = tuple(make_tokenizer(geometry)(text)["input_ids"])
    side: int = model.config.vision_config.image_size  # type: ignore[union-attr]
    torch.manual_seed(1)
    pixels = torch.randn(num_rows, NUM_FRAMES, 3, side, side, dtype=model.dtype, device=model.device)
    return Workload(model, ids, pixels, num_new_tokens)


def ours(workload: Workload, steps: Steps) -> list[float]:
    """Run our loop with dynamic or static decode."""
    began = time.perf_counter()
    return [time.perf_counter() - began for _ in workload.generate(steps)]


def of_transformers(workload: Workload) -> list[float]:
    """Run `model.generate`."""
    clock = Clock()
    ids = torch.tensor([workload.token_ids] * workload.num_rows, device=workload.model.device)
    with quiet_libraries():
        workload.model.generate(  # type: ignore[misc]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=workload.pixel_values,
            do_sample=False,
            max_new_tokens=workload.num_new_tokens,
            streamer=clock,
        )
    return clock.seconds[1:]  # the first is put with the prompt, before anything ran


class Clock(BaseStreamer):
    """Note when tokens arrive on the host."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.seconds.append(time.perf_counter() - self.began)

    def end(self) -> None:
        """Do nothing."""


def measure(workload: Workload, sides: dict[str, Side], runs: int) -> Iterator[Record]:
    """Run all sides in turn; yield each one's times, with their medians and a card's peak of memory."""
    results = in_turn({name: partial(_measure_once, workload, side) for name, side in sides.items()}, runs)
    for name, of_side in results.items():
        rates, firsts, peaks = (list(column) for column in zip(*of_side, strict=True))
        row = {"side": name, "batch": workload.num_rows, "peak_bytes": max(peaks)}
        yield row | {"tokens_per_second": rates, "first_seconds": firsts}


def _measure_once(workload: Workload, side: Side) -> tuple[float, float, int]:
    """Return tokens a second of all answers behind their first token, seconds to that, and the card's peak in bytes."""
    device = workload.model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = side(workload)
    assert len(seconds) == workload.num_new_tokens
    rate = workload.num_rows * (workload.num_new_tokens - 1) / (seconds[-1] - seconds[0])
    return rate, seconds[0], torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def with_ratios(rows: list[Record]) -> list[Record]:
    """Return rows of the same number of answers with the ratio of their rate to that of `model.generate`."""
    reference = next(median(row["tokens_per_second"]) for row in rows if row["side"] == REFERENCE)
    return [row | {"ratio": median(row["tokens_per_second"]) / reference} for row in rows]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token at which two answers to a prompt differ, and how far apart its two logits are.

    `gap` is in steps of the number format at the larger logit (in fp16, 0.008 between 8 and 16): a few are rounding.
    """

    at_token: int
    gap: float


def first_difference(workload: Workload) -> Difference | None:
    """Return where static and dynamic decode first differ in the first row; None if they never do."""
    static = [ids[0] for ids in workload.generate("static")]
    return difference_of(workload, static, [ids[0] for ids in workload.generate("dynamic")])


@torch.inference_mode()
def difference_of(workload: Workload, one: list[int], other: list[int]) -> Difference | None:
    """Compare two answers of equal length to the first row's prompt; the gap is that of one more forward pass."""
    model = workload.model
    at = next((number for number, ids in enumerate(zip(one, other, strict=True)) if len(set(ids)) > 1), None)
    if at is None:
        return None
    ids = torch.tensor([[*workload.token_ids, *one[:at]]], device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    logits = model(**inputs, pixel_values_videos=workload.pixel_values[:1], logits_to_keep=1).logits[0, -1]
    first, second = float(logits[one[at]]), float(logits[other[at]])
    step = max(abs(first), abs(second)) * torch.finfo(model.dtype).eps
    return Difference(at, abs(first - second) / step)
