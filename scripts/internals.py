"""What these scripts use of the package below its public door (`load`, `Engine`, the command line).

Functions import what they need themselves: some run in processes whose imports are measured, or lack a library.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from videollava_cli.engine import Engine, Request
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.preprocessing import PixelSettings, resize_frame, resize_image, to_model
from videollava_cli.prompt import Conversation, EncodedPrompt, Turn
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    import torch
    from transformers import VideoLlavaForConditionalGeneration

Pixels = NDArray[np.uint8]
Asked = tuple[Conversation, tuple[Medium, ...]]
Steps = Literal["dynamic", "static"]

# The image processor's settings of LanguageBind/Video-LLaVA-7B-hf, from its preprocessor_config.json.
SIDE = 224  # pixels
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PIXELS = PixelSettings(SIDE, SIDE, 1 / 255, CLIP_MEAN, CLIP_STD)


def read(path: str, decode_threads: int | None = None) -> Medium:
    """Read a file as `vllava ask` does, at the 7B's side."""
    from videollava_cli.reader import Reader

    with Reader(Settings(), num_threads=decode_threads) as reader:
        return reader.read(reader.find(path), PIXELS)


def image_to_model(rgb: Pixels, pixels: PixelSettings = PIXELS) -> Pixels:
    """Bring a still picture to the model's side: uint8 RGB, (S, S, 3)."""
    return to_model(rgb, pixels, resize_image)


def frame_to_model(rgb: Pixels, pixels: PixelSettings = PIXELS) -> Pixels:
    """Bring a frame of a video to the model's side: uint8 RGB, (S, S, 3)."""
    return to_model(rgb, pixels, resize_frame)


def make_clip(frames: Pixels) -> Medium:
    """Return a clip of frames, uint8 RGB, (8, S, S, 3)."""
    stamps = tuple(FrameStamp(index, index / len(frames)) for index in range(len(frames)))
    return Medium("clip", MediaKind.VIDEO, frames, stamps)


def answer_ids(engine: Engine, asked: Sequence[Asked], max_new_tokens: int, **sampling: Any) -> list[list[int]]:
    """Answer as one batch with nothing cached; return the ids, with those that end answers."""
    settings = replace(engine.settings, max_new_tokens=max_new_tokens, **sampling)
    ids: dict[Request, list[int]] = {Request(*each, settings): [] for each in asked}
    engine.clear_cache()
    for request, chunk in engine.answer(list(ids), max_num_seqs=len(asked)):
        ids[request] += chunk.token_ids
    return list(ids.values())


def answer_texts(engine: Engine, asked: Sequence[Asked], max_new_tokens: int, **sampling: Any) -> list[str]:
    """Return the texts of answers as `vllava ask` gives them to several questions."""
    settings = replace(engine.settings, max_new_tokens=max_new_tokens, **sampling)
    texts = {Request(*each, settings): "" for each in asked}
    for request, chunk in engine.answer(list(texts)):
        texts[request] += chunk.text
    return list(texts.values())


def generate_ids(
    model: "VideoLlavaForConditionalGeneration",
    token_ids: Sequence[int],
    pixel_values: "torch.Tensor",
    max_new_tokens: int,
    *,
    steps: Steps | None = None,
    capture: Any = None,
    **sampling: Any,
) -> Iterator[list[int]]:
    """Yield the next id of each row, as the scheduler has them generated; no id ends an answer.

    All rows have the same prompt, and a clip each: pixel values (B, 8, 3, S, S). `capture` stands in for a CUDA graph.
    """
    import torch

    from videollava_cli.engine.generate import STEPS_AHEAD, DecodeBatch, ModelRunner
    from videollava_cli.engine.kv_cache import CachedPrefix, KVCache
    from videollava_cli.engine.request import Sequence as EngineSequence

    runner = ModelRunner(model, static_decode=None if steps is None else steps == "static", capture=capture)
    batch, num_rows = DecodeBatch(runner), len(pixel_values)
    request = Request(Conversation((Turn("?"),)), (), Settings(max_new_tokens=max_new_tokens, **sampling))
    num_reserved = len(token_ids) + (min(max_new_tokens, STEPS_AHEAD) if runner.is_static else 1)
    for number, clip in enumerate(pixel_values):
        sequence = EngineSequence(number, request, EncodedPrompt("", tuple(token_ids)), 1 << 20)
        with torch.inference_mode():
            features = model.model.get_video_features(clip[None]).pooler_output.flatten(0, 1)
        prefix = CachedPrefix(KVCache(model.config), [])
        (batch.cache if num_rows > 1 else prefix.cache).reserve(num_rows, num_reserved)
        batch.join(runner.prefill(prefix, [sequence], [features]), adopt=num_rows == 1)
    for _ in range(max_new_tokens):
        tokens = batch.next_tokens()
        for sequence, token in tokens:
            sequence.token_ids.append(token)
        yield [token for _, token in tokens]


def status_bytes(key: str) -> int:
    """Return a size of this process from /proc/self/status, such as VmHWM, in bytes (Linux only)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])
