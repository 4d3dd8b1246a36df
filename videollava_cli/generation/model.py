"""What the token loop must know of a model beside `forward`: features, end ids, masks, and what versions rename."""

import inspect
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

import torch
from transformers import VideoLlavaForConditionalGeneration

# These take any mask of (queries, keys); Flash-Attention 2 and its kin take padding only.
MASKABLE_ATTENTION = frozenset({"sdpa", "eager"})


class Steps(Enum):
    """How steps are run: on a cache that grows by each, or in one shape that can be recorded on a CUDA card.

    Growing steps read no room in vain and drop what has ended at once: right for a CPU, where nothing is gained by
    recording.
    """

    GROWING = auto()
    FIXED = auto()


def image_argument(model: VideoLlavaForConditionalGeneration) -> str:
    """Return what `forward` calls an image's pixels: `pixel_values`, before transformers 5.23 `pixel_values_images`."""
    names = inspect.signature(model.forward).parameters
    return "pixel_values" if "pixel_values" in names else "pixel_values_images"


@torch.inference_mode()
def image_features(model: VideoLlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """Run the image tower and the projector on one image.

    Args:
        model: The model.
        pixels: Pixel values, (3, S, S).

    Returns:
        What stands at the image's placeholders, (tokens of an image, hidden size).
    """
    # By position: transformers 5.23 renamed the argument.
    features: torch.Tensor = model.model.get_image_features(pixels[None]).pooler_output
    return features.flatten(0, 1)


@torch.inference_mode()
def video_features(model: VideoLlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """Run the video tower and the projector on one clip.

    Args:
        model: The model.
        pixels: Pixel values, (8, 3, S, S).

    Returns:
        What stands at the clip's placeholders, (tokens of a clip, hidden size).
    """
    features: torch.Tensor = model.model.get_video_features(pixels[None]).pooler_output
    return features.flatten(0, 1)


def embed(
    model: VideoLlavaForConditionalGeneration, ids: Sequence[int], features: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return what the language model is given for token ids, (T, hidden size): features at the placeholders.

    Args:
        model: The model.
        ids: Token ids, placeholders expanded, T of them.
        features: Of the media among them, in order.
    """
    tokens = torch.tensor(ids, device=model.device)
    embedded: torch.Tensor = model.get_input_embeddings()(tokens)
    if features:
        is_media = (tokens == model.config.image_token_id) | (tokens == model.config.video_token_id)
        given = torch.cat([feature.to(embedded.device, embedded.dtype) for feature in features])
        embedded[is_media.to(embedded.device)] = given
    return embedded


def takes_any_mask(model: VideoLlavaForConditionalGeneration) -> bool:
    """Return whether the language model's attention takes any mask, as branches beside each other need."""
    return model.config.get_text_config()._attn_implementation in MASKABLE_ATTENTION


def best_steps(model: VideoLlavaForConditionalGeneration) -> Steps:
    """Return how steps are best run on a model.

    Fixed, if it is on one CUDA card, its attention takes a mask of ours, and no layer asks the host how to go on, as
    those of 8 bits do (bitsandbytes looks for outliers).
    """
    placement = getattr(model, "hf_device_map", {})
    is_on_one_card = model.device.type == "cuda" and len(set(map(str, placement.values()))) <= 1
    is_8bit = getattr(model, "is_loaded_in_8bit", False)
    return Steps.FIXED if is_on_one_card and takes_any_mask(model) and not is_8bit else Steps.GROWING


def bytes_per_token(model: VideoLlavaForConditionalGeneration) -> int:
    """Return how many bytes a token takes in the KV cache."""
    config = model.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * head_size * model.dtype.itemsize)


def end_of_answer_ids(model: VideoLlavaForConditionalGeneration) -> frozenset[int]:
    """Return the ids that end an answer, from the generation config, else from the text config."""
    for config in (model.generation_config, model.config.get_text_config()):
        found: Any = getattr(config, "eos_token_id", None)
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a device ran out of memory; on a CPU torch raises a plain RuntimeError that says so."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
