#!/usr/bin/env python3
"""Write a Video-LLaVA checkpoint with random weights, for tests and measurements without a download.

`small` has the 7B's token geometry (224 px, patch 14, 257 tokens a frame, 2,056 a clip, 4,096 positions) with
narrow layers; `wide` has it too, and layers wide enough that their arithmetic takes the time, as in the 7B; `mini` is
narrow and has frames of 28 px, 40 tokens a clip, 4 an image. The tokenizer is trained on the spot.

    python scripts/make_checkpoint.py small /tmp/small
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_world.architecture import NUM_FRAMES, train_tokenizer
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
)

from videollava_cli.engine.loading import quiet_libraries

IMAGE_SIDE, PATCH_SIDE = 224, 14  # pixels, of LanguageBind/Video-LLaVA-7B-hf
CONTEXT_LENGTH = 4096
CORPUS = ("USER: What happens in this video? ASSISTANT: A red circle moves, größer als 世界 🎬.",) * 20
# Wide enough that greedy answers of random weights vary from token to token, so that equality means something.
INITIALIZER_RANGE = 0.3


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a checkpoint: of the language model, of the towers, and a frame's side in pixels."""

    width: int = 64
    num_layers: int = 2
    head_size: int = 32
    tower_width: int = 64
    tower_layers: int = 2
    image_side: int = IMAGE_SIDE


# The towers of `wide` take a twentieth of the language model's arithmetic, as those of the 7B do.
GEOMETRIES = {
    "small": Geometry(),
    "wide": Geometry(width=512, num_layers=8, head_size=128, tower_width=256, tower_layers=2),
    "mini": Geometry(image_side=2 * PATCH_SIDE),
}


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("geometry", choices=list(GEOMETRIES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_checkpoint(options.folder, geometry=options.geometry, seed=options.seed)
    print(f"{options.geometry} checkpoint in {options.folder}")


def make_checkpoint(folder: Path, *, geometry: str = "small", seed: int = 0) -> None:
    """Write config, random fp32 weights, tokenizer and image processor settings into a folder."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(CORPUS, vocab_size=512, context_length=CONTEXT_LENGTH)
    model = VideoLlavaForConditionalGeneration(_config(tokenizer, GEOMETRIES[geometry]))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with quiet_libraries():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = GEOMETRIES[geometry].image_side
    size, crop_size = {"shortest_edge": side}, {"height": side, "width": side}
    VideoLlavaImageProcessor(size=size, crop_size=crop_size).save_pretrained(folder)


def _config(tokenizer: PreTrainedTokenizerFast, geometry: Geometry) -> VideoLlavaConfig:
    num_patches = (geometry.image_side // PATCH_SIDE) ** 2
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **_layers(geometry.width, geometry.num_layers, geometry.head_size),
    )
    return VideoLlavaConfig(  # type: ignore[call-arg]  # its attribute map takes the newer names
        vision_config=CLIPVisionConfig(
            image_size=geometry.image_side,
            patch_size=PATCH_SIDE,
            **_layers(geometry.tower_width, geometry.tower_layers, geometry.head_size),
        ),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        image_seq_length=num_patches,
        video_seq_length=(num_patches + 1) * NUM_FRAMES,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=False,
    )


def _layers(width: int, num_layers: int, head_size: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": width // head_size,
        # Wider layers get smaller weights, so that what they give is as large.
        "initializer_range": INITIALIZER_RANGE * (64 / width) ** 0.5,
    }


if __name__ == "__main__":
    main()
