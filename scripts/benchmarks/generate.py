"""The table `generate`: tokens a second of our loop, with growing and with fixed steps, against `model.generate`.

All sides get the same ids and pixel values, and answer in turn. `model.generate` runs on the cache that it takes by
itself, a `DynamicCache`. Seconds to the first token are those of the vision tower and the prefill.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from internals import Steps, generate_ids, make_noise_prompts
from make_checkpoint import GEOMETRIES, make_config, make_tokenizer
from transformers import AutoModelForImageTextToText, VideoLlavaForConditionalGeneration
from transformers.generation.streamers import BaseStreamer

from benchmarks import table
from benchmarks.table import Record, in_turn, spread
from videollava_cli.engine.loading import choose_device, choose_dtype, quiet_libraries
from videollava_cli.media import NUM_FRAMES

if TYPE_CHECKING:
    from videollava_cli.generation import Prompts

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
    """Answers of so many tokens to a question about clips of noise: a row, a prompt and a clip for each answer."""

    model: VideoLlavaForConditionalGeneration
    prompts: "Prompts"
    num_rows: int
    num_prompt_tokens: int
    num_new_tokens: int


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
    dtype = choose_dtype("auto", device)
    model = make_model(options.geometry, device, dtype)
    millions = sum(tensor.numel() for tensor in model.parameters()) / 1e6
    weights = f"{options.geometry}: {millions:.0f} M random weights, {dtype}, on {device}"
    software = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    sides: dict[str, Side] = {"growing": ours("growing"), "fixed": ours("fixed"), REFERENCE: of_transformers}
    printed = table.Table(options, COLUMNS, table.machine_line(options, software, weights))
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
    """Make clips of noise and the prompts about them, of `NUM_FRAMES` frames each."""
    text = QUESTION.replace("<video>", "<video>" * model.config.video_seq_length)
    ids = torch.tensor([make_tokenizer(geometry)(text)["input_ids"]] * num_rows, device=model.device)
    vision: Any = model.config.vision_config
    side = vision.image_size
    torch.manual_seed(1)
    pixels = torch.randn(num_rows, NUM_FRAMES, 3, side, side, dtype=model.dtype, device=model.device)
    return Workload(model, make_noise_prompts(ids, pixels), num_rows, ids.shape[1], num_new_tokens)


def ours(steps: Steps) -> Side:
    """Return our loop, with steps of a kind."""

    def run(workload: Workload) -> list[float]:
        began = time.perf_counter()
        ids = generate_ids(workload.model, workload.prompts, workload.num_new_tokens, steps=steps)
        return [time.perf_counter() - began for _ in ids]

    return run


def of_transformers(workload: Workload) -> list[float]:
    """Run `model.generate`, on the cache that it takes by itself."""
    clock = Clock()
    prompts = workload.prompts
    with quiet_libraries():
        workload.model.generate(  # type: ignore[misc]
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            pixel_values_videos=prompts.pixel_values_videos,
            do_sample=False,
            max_new_tokens=workload.num_new_tokens,
            streamer=clock,
        )
    return clock.seconds[1:]  # without that at the prompt, before anything ran


class Clock(BaseStreamer):
    """Note when tokens come, which are on the host by then."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Note that a token of every row has come."""
        self.seconds.append(time.perf_counter() - self.began)

    def end(self) -> None:
        """Do nothing: the last token has come before."""


def measure(workload: Workload, sides: dict[str, Side], runs: int) -> Iterator[Record]:
    """Run all sides in turn; yield each one's times, with their medians and a card's peak of memory."""
    results = in_turn({name: partial(_measure_once, workload, side) for name, side in sides.items()}, runs)
    for name, of_side in results.items():
        rates, firsts = [rate for rate, _, _ in of_side], [first for _, first, _ in of_side]
        yield {
            "side": name,
            "batch": workload.num_rows,
            "tokens_per_second": rates,
            "first_seconds": firsts,
            "peak_bytes": max(peak for _, _, peak in of_side),
        }


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
    """The first token at which two ways to run the same prompt part, and how far their logits lay apart there.

    `gap` is in steps of the number format at the larger logit: in fp16 neighbours between 8 and 16 are 0.008 apart, so
    that a gap of a few decides nothing but how sums were rounded.
    """

    at_token: int
    gap: float


def first_difference(workload: Workload) -> Difference | None:
    """Return where fixed steps and growing ones part in the first row; None if they never do."""
    ways: tuple[Steps, Steps] = ("fixed", "growing")
    fixed, growing = (
        [ids[0] for ids in generate_ids(workload.model, workload.prompts, workload.num_new_tokens, steps=steps)]
        for steps in ways
    )
    return difference_of(workload, fixed, growing)


@torch.inference_mode()
def difference_of(workload: Workload, one: list[int], other: list[int]) -> Difference | None:
    """Return where two answers of as many ids to the first row's prompt part.

    The gap is that of one forward pass over the prompt and all tokens that both agree on.
    """
    model, prompts = workload.model, workload.prompts
    at = next((number for number, ids in enumerate(zip(one, other, strict=True)) if len(set(ids)) > 1), None)
    if at is None:
        return None
    assert prompts.pixel_values_videos is not None
    agreed = torch.tensor([one[:at]], dtype=torch.int64, device=model.device)
    ids = torch.cat([prompts.input_ids[:1], agreed], dim=1)
    output = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=prompts.pixel_values_videos[:1],
        logits_to_keep=1,
    )
    first, second = (float(output.logits[0, -1, answer[at]]) for answer in (one, other))
    step = max(abs(first), abs(second)) * torch.finfo(model.dtype).eps
    return Difference(at, abs(first - second) / step)
