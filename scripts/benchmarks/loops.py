"""What the tables about generating share: a model of random weights, clips of noise, our loop and `model.generate`."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from make_checkpoint import make_config, make_tokenizer
from transformers import AutoModelForImageTextToText, VideoLlavaForConditionalGeneration
from transformers.generation.streamers import BaseStreamer
from videollava_cli.generation import Decoding, Prompts, Steps, generate

from videollava_cli.engine.loading import quiet_libraries
from videollava_cli.media import NUM_FRAMES

QUESTION = "USER: <video>\nWhat happens in this video? ASSISTANT:"
LONG_AS_ASKED = frozenset[int]()  # no id ends an answer


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Answers of so many tokens to a question about clips of noise, a clip a row."""

    model: VideoLlavaForConditionalGeneration
    prompts: Prompts
    num_new_tokens: int

    @property
    def num_rows(self) -> int:
        """How many answers are written at once."""
        return len(self.prompts.input_ids)

    @property
    def num_prompt_tokens(self) -> int:
        """How many tokens a prompt has."""
        return self.prompts.input_ids.shape[1]


@dataclass(frozen=True, slots=True)
class Times:
    """How long answers took: seconds to the first token, and tokens a second of all answers behind it."""

    first_seconds: float
    tokens_per_second: float


@dataclass(slots=True)
class Row:
    """One measurement: who generated, how many answers at once, the times of each run, and a card's peak of memory."""

    side: str
    num_rows: int
    runs: list[Times] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def rate(self) -> float:
        """The median of tokens a second."""
        return median(run.tokens_per_second for run in self.runs)

    @property
    def first_seconds(self) -> float:
        """The median of seconds to the first token."""
        return median(run.first_seconds for run in self.runs)

    def told(self) -> dict[str, Any]:
        """Return the row as an object, with every single time."""
        return {
            "side": self.side,
            "batch": self.num_rows,
            "tokens_per_second": [run.tokens_per_second for run in self.runs],
            "first_seconds": [run.first_seconds for run in self.runs],
        }


Side = Callable[[Workload], Times]


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
    return Workload(model, Prompts(ids, torch.ones_like(ids), pixel_values_videos=pixels), num_new_tokens)


def ours(steps: Steps) -> Side:
    """Return our loop, with steps of a kind."""

    def run(workload: Workload) -> Times:
        decoding = Decoding((workload.num_new_tokens,) * workload.num_rows, LONG_AS_ASKED)
        clock = Clock()
        for _ in generate(workload.model, workload.prompts, decoding, steps):
            clock.tick()
        return clock.times(workload)

    return run


def of_transformers(workload: Workload) -> Times:
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
    clock.ticks.pop(0)  # at the prompt, before anything ran
    return clock.times(workload)


class Clock(BaseStreamer):
    """Note when tokens come, as a streamer of transformers does or by itself."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.ticks: list[float] = []

    def tick(self) -> None:
        """Note that a token of every row has come."""
        self.ticks.append(time.perf_counter())

    def put(self, value: torch.Tensor) -> None:
        """Note that tokens have come, which are on the host by now."""
        self.tick()

    def end(self) -> None:
        """Do nothing: the last token has come before."""

    def times(self, workload: Workload) -> Times:
        """Return how long it took."""
        assert len(self.ticks) == workload.num_new_tokens
        seconds = self.ticks[-1] - self.ticks[0]
        num_tokens = workload.num_rows * (workload.num_new_tokens - 1)
        return Times(self.ticks[0] - self.began, num_tokens / seconds)


def measure(workload: Workload, sides: dict[str, Side], runs: int) -> list[Row]:
    """Run all sides in turn so many times, after one time that does not count."""
    rows = {name: Row(name, workload.num_rows) for name in sides}
    for run in range(runs + 1):
        for name, side in sides.items():
            device = workload.model.device
            if device.type == "cuda" and not run:
                torch.cuda.reset_peak_memory_stats(device)
            times = side(workload)
            if run:
                rows[name].runs.append(times)
            elif device.type == "cuda":
                rows[name].peak_bytes = torch.cuda.max_memory_allocated(device)
    return list(rows.values())


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token at which two ways to run the same prompt part, and how far their logits lay apart there.

    `gap` is in steps of the number format at the larger logit: in fp16 neighbours between 8 and 16 are 0.008 apart, so
    that a gap of a few decides nothing but how sums were rounded.
    """

    at_token: int
    gap: float


@torch.inference_mode()
def first_difference(workload: Workload) -> Difference | None:
    """Return where fixed steps and growing ones part in the first row; None if they never do.

    The gap is that of one forward pass over the prompt and all tokens that both agree on.
    """
    model, prompts = workload.model, workload.prompts
    decoding = Decoding((workload.num_new_tokens,) * workload.num_rows, LONG_AS_ASKED)
    fixed, growing = (
        [step[0] for step in generate(model, prompts, decoding, steps)] for steps in (Steps.FIXED, Steps.GROWING)
    )
    at = next((number for number, ids in enumerate(zip(fixed, growing, strict=True)) if len(set(ids)) > 1), None)
    if at is None:
        return None
    assert prompts.pixel_values_videos is not None
    agreed = torch.tensor([growing[:at]], dtype=torch.int64, device=model.device)
    ids = torch.cat([prompts.input_ids[:1], agreed], dim=1)
    output = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=prompts.pixel_values_videos[:1],
        logits_to_keep=1,
    )
    one, other = (float(output.logits[0, -1, way[at]]) for way in (fixed, growing))
    step = max(abs(one), abs(other)) * torch.finfo(model.dtype).eps
    return Difference(at, abs(one - other) / step)


def spread(values: list[float], digits: int = 1) -> str:
    """Return the median of values with the smallest and the largest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
