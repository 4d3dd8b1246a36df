"""All that these scripts use of the package below its public door (`load`, `Engine`, the command line).

When the reader or the token loop changes, the scripts change here. Functions import what they need themselves: some
run in processes whose imports are measured, or where a library is missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from videollava_cli.engine.checkpoint import BUNDLED_FOLDER
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.preprocessing import PixelSettings, resize_frame, resize_image, to_model
from videollava_cli.prompt import Conversation, EncodedPrompt, Turn

if TYPE_CHECKING:
    import torch
    from transformers import VideoLlavaForConditionalGeneration

    from videollava_cli.engine import Engine

__all__ = ["BUNDLED_FOLDER", "Conversation", "Turn"]  # beside what is below

Pixels = NDArray[np.uint8]
Steps = Literal["dynamic", "static"]  # on a KV cache that grows, or of one shape, which a CUDA card captures

# The image processor's settings of LanguageBind/Video-LLaVA-7B-hf, from its preprocessor_config.json.
SIDE = 224  # pixels
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PIXELS = PixelSettings(SIDE, SIDE, 1 / 255, CLIP_MEAN, CLIP_STD)


def read(path: str, decode_threads: int | None = None) -> Medium:
    """Read a file as `vllava ask` does, at the 7B's side."""
    from videollava_cli.reader import Reader
    from videollava_cli.settings import Settings

    with Reader(Settings(), num_threads=decode_threads) as reader:
        return reader.read(reader.find(path), PIXELS)


def image_to_model(rgb: Pixels, pixels: PixelSettings = PIXELS) -> Pixels:
    """Bring a still picture to the model's side: uint8 RGB, (S, S, 3)."""
    return to_model(rgb, pixels, resize_image)


def frame_to_model(rgb: Pixels, pixels: PixelSettings = PIXELS) -> Pixels:
    """Bring a frame of a video to the model's side: uint8 RGB, (S, S, 3)."""
    return to_model(rgb, pixels, resize_frame)


def make_image(picture: Pixels) -> Medium:
    """Return an image of a picture, uint8 RGB, (S, S, 3)."""
    return Medium("image", MediaKind.IMAGE, picture[None])


def make_clip(frames: Pixels) -> Medium:
    """Return a clip of frames, uint8 RGB, (8, S, S, 3)."""
    stamps = tuple(FrameStamp(index, index / len(frames)) for index in range(len(frames)))
    return Medium("clip", MediaKind.VIDEO, frames, stamps)


def images_and_clips(media: Sequence[Medium]) -> tuple[list[Pixels], list[Pixels]]:
    """Return the pictures of all images and the frames of all clips among media."""
    images = [medium.pixels[0] for medium in media if medium.kind is MediaKind.IMAGE]
    return images, [medium.pixels for medium in media if medium.kind is MediaKind.VIDEO]


def prompt_text(engine: "Engine", conversation: Conversation) -> str:
    """Return the prompt, one placeholder a medium."""
    return engine.encoder.encoded(conversation).text


def with_static_decode(engine: "Engine") -> "Engine":
    """Return an engine with static decode on any device; its caches are its own."""
    return replace(engine, static_decode=True)


def answer_ids(
    engine: "Engine",
    asked: Sequence[tuple[Conversation, tuple[Medium, ...]]],
    max_new_tokens: int,
    **sampling: Any,
) -> list[list[int]]:
    """Return the ids of answers given as one batch with nothing cached, with the ids that end them."""
    from videollava_cli.engine import Request

    settings = replace(engine.settings, max_new_tokens=max_new_tokens, **sampling)
    ids: dict[Request, list[int]] = {Request(*each, settings): [] for each in asked}
    engine.clear_cache()
    for request, chunk in engine.answer(list(ids), max_num_seqs=len(asked)):
        ids[request] += chunk.token_ids
    return list(ids.values())


def answer_texts(
    engine: "Engine", asked: Sequence[tuple[Conversation, tuple[Medium, ...]]], max_new_tokens: int, **sampling: Any
) -> list[str]:
    """Return the texts of answers as `vllava ask` gives them to several questions."""
    from videollava_cli.engine import Request

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
    """Yield the next id of each row of a batch, as the scheduler has them generated; no id ends an answer.

    Args:
        model: The model.
        token_ids: Of the prompt, which is that of all rows.
        pixel_values: Of a clip a row, (B, 8, 3, S, S).
        max_new_tokens: Of each row.
        steps: How steps run; by default as is best for the device.
        capture: How static steps are captured, in place of a CUDA graph.
        sampling: Settings that say how to sample.
    """
    import torch

    from videollava_cli.engine import Request
    from videollava_cli.engine.generate import STEPS_AHEAD, DecodeBatch, ModelRunner
    from videollava_cli.engine.kv_cache import CachedPrefix, KVCache
    from videollava_cli.engine.request import Sequence as EngineSequence
    from videollava_cli.settings import Settings

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


def end_of_answer_ids(model: "VideoLlavaForConditionalGeneration") -> frozenset[int]:
    """Return the ids that end an answer."""
    from videollava_cli.engine import model_access

    return model_access.end_of_answer_ids(model)


def text_of(engine: "Engine", ids: Sequence[int]) -> str:
    """Return the text that ids are streamed as."""
    from videollava_cli.engine.request import Detokenizer

    detokenizer = Detokenizer(engine.tokenizer)
    return "".join([*(detokenizer.add(token) for token in ids), detokenizer.finish()])


def cache_bytes_per_token(model: "VideoLlavaForConditionalGeneration") -> int:
    """Return how many bytes a token takes in the KV cache."""
    from videollava_cli.engine.model_access import bytes_per_token

    return bytes_per_token(model)


def cache_capacity(num_tokens: int) -> int:
    """Return for how many tokens the KV cache reserves memory when it must hold so many."""
    from videollava_cli.engine.kv_cache import rounded_up

    return rounded_up(num_tokens)
