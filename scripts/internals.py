"""All that these scripts use of the package below its public door (`load`, `Engine`, the command line).

When the reader or the token loop changes, the scripts change here. Functions import what they need themselves: some
run in processes whose imports are measured, or where a library is missing.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from videollava_cli.conversation import Conversation, Turn
from videollava_cli.engine.checkpoint import BUNDLED_FOLDER
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.preprocessing import PixelSettings, resize_frame, resize_image, to_model

if TYPE_CHECKING:
    import torch
    from transformers import VideoLlavaForConditionalGeneration

    from videollava_cli.engine import Engine
    from videollava_cli.generation import Prompts

__all__ = ["BUNDLED_FOLDER", "Conversation", "Turn"]  # beside what is below

Pixels = NDArray[np.uint8]
Steps = Literal["growing", "fixed"]  # on a cache that grows, or in one shape, which a CUDA card records

# The image processor's settings of LanguageBind/Video-LLaVA-7B-hf, from its preprocessor_config.json.
SIDE = 224  # pixels
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PIXELS = PixelSettings(SIDE, SIDE, 1 / 255, CLIP_MEAN, CLIP_STD)


def read(path: str, decode_threads: int | None = None) -> Medium:
    """Read a file as `vllava ask` does, at the 7B's side."""
    from videollava_cli.reader import MediaReader

    with MediaReader(decode_threads=decode_threads) as reader:
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
    from videollava_cli.engine import prompting

    return prompting.prompt_text(conversation, engine.tokenizer)


def make_prompts(engine: "Engine", conversations: Sequence[Conversation], media: Sequence[Medium]) -> "Prompts":
    """Return a batch of prompts as our loop takes them; `media` are those of all conversations in order."""
    from videollava_cli.engine.prompting import prompt_ids
    from videollava_cli.generation import Prompts, pad_left
    from videollava_cli.preprocessing import pixel_values

    device, pixels = engine.model.device, engine.checkpoint.pixels
    rows = [prompt_ids(prompt_text(engine, each), engine.tokenizer, engine.checkpoint) for each in conversations]
    tensors = [pixel_values(np.stack(p), pixels).to(device) if p else None for p in images_and_clips(media)]
    return Prompts(*pad_left(rows, engine.tokenizer.pad_token_id, device), *tensors)


def make_noise_prompts(ids: "torch.Tensor", pixels: "torch.Tensor") -> "Prompts":
    """Return prompts of ids, int64 (B, T), about a clip a row: pixel values, (B, 8, 3, S, S)."""
    from videollava_cli.generation import Prompts

    return Prompts(ids, ids.new_ones(ids.shape), pixel_values_videos=pixels)


def generate_ids(
    model: "VideoLlavaForConditionalGeneration",
    prompts: "Prompts",
    max_new_tokens: int,
    *,
    steps: Steps | None = None,
    end_ids: frozenset[int] = frozenset(),
    **sampling: Any,
) -> Iterator[dict[int, int]]:
    """Yield the next id of each row that has not ended, from our loop; without `steps` it chooses the way itself."""
    from videollava_cli import generation

    decoding = generation.Decoding((max_new_tokens,) * len(prompts.input_ids), end_ids, **sampling)
    chosen = generation.Steps[steps.upper()] if steps else None
    yield from generation.generate(model, prompts, decoding, chosen)


def end_of_answer_ids(model: "VideoLlavaForConditionalGeneration") -> frozenset[int]:
    """Return the ids that end an answer."""
    from videollava_cli import generation

    return generation.end_of_answer_ids(model)


def text_of(engine: "Engine", ids: Sequence[int]) -> str:
    """Return the text that ids are streamed as."""
    from videollava_cli.generation import Detokenizer

    detokenizer = Detokenizer(engine.tokenizer)
    return "".join([*(detokenizer.add(token) for token in ids), detokenizer.finish()])


def use_fixed_steps(engine: "Engine") -> None:
    """Let an engine answer in steps of one shape on any device."""
    from videollava_cli.generation import Steps

    engine._runner.steps = Steps.FIXED


def answers_of_batch(engine: "Engine", asked: Sequence[tuple[Conversation, Medium]]) -> list[str]:
    """Return the answers to conversations about a medium each, answered as one batch of `vllava batch`."""
    from videollava_cli.engine.batch import Answer, Request, answer_batch

    answers = answer_batch(engine, [Request(conversation, (medium,)) for conversation, medium in asked])
    assert all(isinstance(answer, Answer) for answer in answers), "the prompts fit the context"
    return [answer.text for answer in answers if isinstance(answer, Answer)]


def cache_bytes_per_token(model: "VideoLlavaForConditionalGeneration") -> int:
    """Return how many bytes a token takes in the KV cache."""
    from videollava_cli.generation import bytes_per_token

    return bytes_per_token(model)


def cache_capacity(num_tokens: int) -> int:
    """Return for how many tokens the KV cache reserves memory when it must hold so many."""
    from videollava_cli.generation.caching import rounded_up

    return rounded_up(num_tokens)
