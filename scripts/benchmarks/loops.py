"""What the tables about generating share: a model of random weights, clips of noise, our loop and `model.generate`."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from make_checkpoint import make_config, make_tokenizer
from transformers import AutoModelForImageTextToText, VideoLlavaForConditionalGeneration
from transformers.generation.streamers import BaseStreamer

from videollava_cli.engine import Request
from videollava_cli.engine.caches import CachedPrefix
from videollava_cli.engine.generate import STEPS_AHEAD, DecodeBatch, ModelRunner
from videollava_cli.engine.kv_cache import KVCache
from videollava_cli.engine.loading import quiet_libraries
from videollava_cli.engine.sequence import Sequence
from videollava_cli.media import NUM_FRAMES
from videollava_cli.prompt import Conversation, EncodedPrompt, Turn
from videollava_cli.settings import Settings

QUESTION = "USER: <video>\nWhat happens in this video? ASSISTANT:"


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Answers of so many tokens to a question about clips of noise, a clip a row.

    `token_ids` are those of the prompt; `pixel_values` is (rows, 8, 3, S, S).
    """

    model: VideoLlavaForConditionalGeneration
    token_ids: tuple[int, ...]
    pixel_values: torch.Tensor
    num_new_tokens: int
    settings: Settings = field(default_factory=Settings)

    @property
    def num_rows(self) -> int:
        """How many answers are written at once."""
        return len(self.pixel_values)

    @property
    def num_prompt_tokens(self) -> int:
        """How many tokens a prompt has."""
        return len(self.token_ids)


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
    ids = tuple(make_tokenizer(geometry)(text)["input_ids"])
    vision: Any = model.config.vision_config
    side = vision.image_size
    torch.manual_seed(1)
    pixels = torch.randn(num_rows, NUM_FRAMES, 3, side, side, dtype=model.dtype, device=model.device)
    return Workload(model, ids, pixels, num_new_tokens)


def ours(*, static: bool) -> Side:
    """Return our loop, with static or dynamic decode."""

    def run(workload: Workload) -> Times:
        clock = Clock()
        for _ in generated(ModelRunner(workload.model, static_decode=static), workload):
            clock.tick()
        return clock.times(workload)

    return run


def generated(runner: ModelRunner, workload: Workload) -> Iterator[list[int]]:
    """Yield the next token of each row, as the scheduler has them generated; no id ends an answer."""
    batch, settings = DecodeBatch(runner), replace(workload.settings, max_new_tokens=workload.num_new_tokens)
    for number, pixels in enumerate(workload.pixel_values):
        request = Request(Conversation((Turn("What happens?"),)), (), settings)
        sequence = Sequence(number, request, EncodedPrompt("", workload.token_ids), 1 << 20)
        with torch.inference_mode():
            features = workload.model.model.get_video_features(pixels[None]).pooler_output.flatten(0, 1)
        prefix = CachedPrefix(KVCache(workload.model.config), [])
        num_reserved = len(workload.token_ids) + (min(workload.num_new_tokens, STEPS_AHEAD) if runner.is_static else 1)
        (batch.cache if workload.num_rows > 1 else prefix.cache).reserve(workload.num_rows, num_reserved)
        batch.join(runner.prefill(prefix, [sequence], [features]), adopt=workload.num_rows == 1)
    for _ in range(workload.num_new_tokens):
        tokens = batch.next_tokens()
        for sequence, token in tokens:
            sequence.token_ids.append(token)
        yield [token for _, token in tokens]


def of_transformers(workload: Workload) -> Times:
    """Run `model.generate`, on the cache that it takes by itself."""
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


def first_difference(workload: Workload) -> Difference | None:
    """Return where static and dynamic decode part in the first row; None if they never do."""
    runners = [ModelRunner(workload.model, static_decode=is_static) for is_static in (True, False)]
    static, dynamic = ([step[0] for step in generated(runner, workload)] for runner in runners)
    return compared(workload, static, dynamic)


@torch.inference_mode()
def compared(workload: Workload, static: list[int], dynamic: list[int]) -> Difference | None:
    """Return where two answers of the first row part; None if they never do.

    The gap is that of one forward pass over the prompt and all tokens that both agree on.
    """
    model = workload.model
    at = next((number for number, ids in enumerate(zip(static, dynamic, strict=True)) if len(set(ids)) > 1), None)
    if at is None:
        return None
    ids = torch.tensor([[*workload.token_ids, *dynamic[:at]]], device=model.device)
    output = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=workload.pixel_values[:1],
        logits_to_keep=1,
    )
    one, other = (float(output.logits[0, -1, way[at]]) for way in (static, dynamic))
    step = max(abs(one), abs(other)) * torch.finfo(model.dtype).eps
    return Difference(at, abs(one - other) / step)


def spread(values: list[float], digits: int = 1) -> str:
    """Return the median of values with the smallest and the largest."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
