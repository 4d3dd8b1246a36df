"""Questions about different media answered at the same time; knows the engine's parts, nothing of files or lines."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from videollava_cli.conversation import Conversation
from videollava_cli.engine import Engine, FinishReason, Usage
from videollava_cli.engine.checkpoint import model_size, needed_memory
from videollava_cli.engine.prompting import prompt_ids, prompt_text
from videollava_cli.errors import MemoryFullError, UsageError
from videollava_cli.machine import free_memory
from videollava_cli.media import MediaKind, Medium
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    import torch

    from videollava_cli.generation import Decoding, Fan, Prompts

# Beyond these more rows at once give hardly more answers a second. That of a GPU is a guess.
MAX_GPU_ROWS, MAX_CPU_ROWS = 32, 8
SHARE_OF_MEMORY = 0.8  # of what is free; the rest is for what allocators waste


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A conversation whose last question is to be answered, and its media; equal media are the same objects."""

    conversation: Conversation
    media: tuple[Medium, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, why it ended, what it took, and the prompt it answers."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    prompt: str


@dataclass(slots=True)
class _Row:
    """A request on its way: its prompt, the ids of its answer and the seconds to its first and last one."""

    request: Request
    prompt: str
    ids: list[int]
    num_cached: int = 0
    answer_ids: list[int] = field(default_factory=list)
    reason: FinishReason = "length"
    first_after: float = 0.0
    last_after: float = 0.0

    def answer(self, engine: Engine) -> Answer:
        """Return the answer that its ids make."""
        text = _text(engine, self.answer_ids)
        seconds = (self.first_after, self.last_after - self.first_after)
        usage = Usage(len(self.ids), self.num_cached, len(self.answer_ids), *seconds)
        return Answer(text, self.reason, usage, self.prompt)


def answer_batch(
    engine: Engine, requests: Sequence[Request], settings: Settings | None = None
) -> list[Answer | UsageError]:
    """Answer several questions at the same time, each as it would be answered alone.

    What requests about the same medium share of their prompts is run once: for the first of them it counts as its
    own, for the others as cached.

    Args:
        engine: The engine; what it keeps of earlier answers is neither used nor changed.
        requests: The questions with their media.
        settings: How to generate; the engine's own by default.

    Returns:
        For each request its answer, or the error if its prompt does not fit the context.

    Raises:
        MemoryFullError: If the memory does not suffice for all of them at once.
    """
    outcomes: dict[int, Answer | UsageError] = {}
    rows: dict[int, _Row] = {}
    for number, request in enumerate(requests):
        text = prompt_text(request.conversation, engine.tokenizer)
        try:
            rows[number] = _Row(request, text, prompt_ids(text, engine.tokenizer, engine.checkpoint))
        except UsageError as error:
            outcomes[number] = error
    for kinds in dict.fromkeys(row.request.conversation.media for row in rows.values()):
        # Prompts of the same kinds of media have about the same length, so that little is padding.
        _run(engine, [row for row in rows.values() if row.request.conversation.media == kinds], settings)
    outcomes |= {number: row.answer(engine) for number, row in rows.items()}
    return [outcomes[number] for number in range(len(requests))]


def num_fitting_rows(engine: Engine) -> int:
    """Return how many questions, each about a clip, are worth answering at once, and fit the memory, by an estimate."""
    need = needed_memory(model_size(engine.checkpoint), engine.settings, engine.model.dtype.itemsize * 8)
    limit = MAX_CPU_ROWS if engine.model.device.type == "cpu" else MAX_GPU_ROWS
    return max(1, min(limit, int(SHARE_OF_MEMORY * free_bytes(engine.model.device) / need.answer)))


def free_bytes(device: "torch.device") -> int:
    """Return how much memory is free on a device, in bytes; on a CPU, within a container's limits."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()


def _run(engine: Engine, rows: Sequence[_Row], settings: Settings | None) -> None:
    """Generate the answers of rows whose media are of the same kinds."""
    import torch

    from videollava_cli.generation import generate, is_out_of_memory

    decoding = _decoding(engine, rows, settings or engine.settings)
    began = time.perf_counter()
    try:
        for step in generate(engine.model, _fan(engine, rows), decoding):
            seconds = time.perf_counter() - began
            for number, token in step.items():
                row = rows[number]
                row.first_after = row.first_after or seconds
                row.last_after = seconds
                if token in decoding.eos_token_ids:
                    row.reason = "stop"
                else:
                    row.answer_ids.append(token)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = "out of memory: try --load-4bit, or a shorter --max-new-tokens"
    else:
        return
    if engine.model.device.type == "cuda":
        torch.cuda.empty_cache()
    raise MemoryFullError(reason)


def _fan(engine: Engine, rows: Sequence[_Row]) -> "Fan | Prompts":
    """Return what is to be run: whole prompts, or beginnings that rows about the same media share."""
    from videollava_cli.engine.prefix import num_shared
    from videollava_cli.generation import Fan

    about: dict[tuple[int, ...], list[_Row]] = {}
    for row in rows:
        about.setdefault(tuple(id(medium) for medium in row.request.media), []).append(row)
    if len(about) == len(rows):
        return _prompts(engine, [row.ids for row in rows], [row.request.media for row in rows])
    beginnings, sources = [], {}
    for number, (key, sharing) in enumerate(about.items()):
        sources[key] = number
        length = min(num_shared([row.ids for row in sharing]), min(len(row.ids) for row in sharing) - 1)
        beginnings.append(sharing[0].ids[:length])
        for row in sharing[1:]:
            row.num_cached = length
    firsts = [sharing[0].request.media for sharing in about.values()]
    of_rows = [sources[tuple(id(medium) for medium in row.request.media)] for row in rows]
    rests = [row.ids[len(beginnings[source]) :] for row, source in zip(rows, of_rows, strict=True)]
    return Fan(_prompts(engine, beginnings, firsts), of_rows, rests)


def _prompts(engine: Engine, ids: Sequence[Sequence[int]], media: Iterable[Sequence[Medium]]) -> "Prompts":
    from videollava_cli.generation import Prompts, pad_left

    padded, mask = pad_left(ids, 0, engine.model.device)
    shown = [medium for of_row in media for medium in of_row]
    images = _pixels(engine, [medium.pixels[0] for medium in shown if medium.kind is MediaKind.IMAGE])
    videos = _pixels(engine, [medium.pixels for medium in shown if medium.kind is MediaKind.VIDEO])
    return Prompts(padded, mask, pixel_values=images, pixel_values_videos=videos)


def _pixels(engine: Engine, pictures: Sequence[Any]) -> "torch.Tensor | None":
    """Return pictures as one tensor of pixel values, on the model's device and in its number format."""
    import numpy as np

    from videollava_cli.preprocessing import pixel_values

    if not pictures:
        return None
    values = pixel_values(np.stack(pictures), engine.checkpoint.pixels)
    return values.to(engine.model.device, engine.model.dtype)


def _decoding(engine: Engine, rows: Sequence[_Row], settings: Settings) -> "Decoding":
    from videollava_cli.generation import Decoding, end_of_answer_ids

    room = (engine.checkpoint.context_length - len(row.ids) for row in rows)
    return Decoding(
        max_new_tokens=tuple(min(settings.max_new_tokens, left) for left in room),
        eos_token_ids=end_of_answer_ids(engine.model),
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        repetition_penalty=settings.repetition_penalty,
        seed=settings.seed,
    )


def _text(engine: Engine, ids: Sequence[int]) -> str:
    """Return the text of an answer, as it is when it is streamed."""
    from videollava_cli.generation.detokenizing import REPLACEMENT, Detokenizer

    text = str(engine.tokenizer.decode(list(ids), skip_special_tokens=True))
    if REPLACEMENT not in text:
        return text
    # Bytes that are no UTF-8 become other signs when they come one by one.
    detokenizer = Detokenizer(engine.tokenizer)
    return "".join(detokenizer.add(token) for token in ids) + detokenizer.finish()
