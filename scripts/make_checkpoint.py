#!/usr/bin/env python3
"""Write a Video-LLaVA checkpoint with random weights, for tests and measurements without a download.

`small` has the 7B's token geometry (224 px, patch 14, 257 tokens a frame, 2,056 a clip, 4,096 positions) with
narrow layers. The tokenizer is trained on the spot.

    python scripts/make_checkpoint.py small /tmp/small
"""

import argparse
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
NUM_PATCHES = (IMAGE_SIDE // PATCH_SIDE) ** 2
CONTEXT_LENGTH = 4096
WIDTHS = {"small": 64}
CORPUS = ("USER: What happens in this video? ASSISTANT: A red circle moves, größer als 世界 🎬.",) * 20
# Wide enough that greedy answers of random weights vary from token to token, so that equality means something.
INITIALIZER_RANGE = 0.3


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("geometry", choices=list(WIDTHS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_checkpoint(options.folder, geometry=options.geometry, seed=options.seed)
    print(f"{options.geometry} checkpoint in {options.folder}")


def make_checkpoint(folder: Path, *, geometry: str = "small", seed: int = 0) -> None:
    """Write config, random fp32 weights, tokenizer and image processor settings into a folder."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(CORPUS, vocab_size=512, context_length=CONTEXT_LENGTH)
    model = VideoLlavaForConditionalGeneration(_config(tokenizer, WIDTHS[geometry]))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with quiet_libraries():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    VideoLlavaImageProcessor().save_pretrained(folder)


def _config(tokenizer: PreTrainedTokenizerFast, width: int) -> VideoLlavaConfig:
    shared: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": width // 32,
        "initializer_range": INITIALIZER_RANGE,
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **shared,
    )
    return VideoLlavaConfig(  # type: ignore[call-arg]  # its attribute map takes the newer names
        vision_config=CLIPVisionConfig(image_size=IMAGE_SIDE, patch_size=PATCH_SIDE, **shared),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        image_seq_length=NUM_PATCHES,
        video_seq_length=(NUM_PATCHES + 1) * NUM_FRAMES,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=False,
    )


if __name__ == "__main__":
    main()
