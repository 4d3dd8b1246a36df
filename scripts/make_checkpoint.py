#!/usr/bin/env python3
"""Write a Video-LLaVA checkpoint with random weights, for tests and measurements without a download.

`small` has the 7B's token geometry (224 px, patch 14, 257 tokens a frame, 2,056 a clip, 4,096 positions) and narrow
layers; `wide` has layers whose arithmetic takes the time, as in the 7B; `mini` is narrow and has frames of 28 px, 40
tokens a clip, 4 an image. `7b` is the published checkpoint's geometry, fp16 and shards (14.7 GB), `1b` a seventh.

    python scripts/make_checkpoint.py small /tmp/small
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_world.architecture import assemble_config, make_image_processor, train_tokenizer
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, PreTrainedTokenizerFast, VideoLlavaConfig

from videollava_cli.engine.loading import quiet_libraries

IMAGE_SIDE, PATCH_SIDE = 224, 14  # pixels, of LanguageBind/Video-LLaVA-7B-hf
CONTEXT_LENGTH = 4096
CORPUS = ("USER: What happens in this video? ASSISTANT: A red circle moves, größer als 世界 🎬.",) * 20
# Wide enough that greedy answers of random weights vary from token to token, so that equality means something.
INITIALIZER_RANGE = 0.3
# Of LanguageBind/Video-LLaVA-7B-hf: ids up to <pad>, 32002, and rows of its embeddings (config.json, vocab_size).
NUM_IDS, NUM_ROWS = 32003, 32064


@dataclass(frozen=True, slots=True)
class Layers:
    """Sizes of a stack of layers."""

    width: int
    count: int
    head_size: int
    inner: int  # width between the two halves of a layer's MLP

    def as_config(self) -> dict[str, Any]:
        return {
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.count,
            "num_attention_heads": self.width // self.head_size,
            # Wider layers get smaller weights, so that what they give is as large.
            "initializer_range": INITIALIZER_RANGE * (64 / self.width) ** 0.5,
        }


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a checkpoint: the language model, each of the two towers, a frame's side in pixels, the files."""

    text: Layers = Layers(width=64, count=2, head_size=32, inner=128)
    tower: Layers = Layers(width=64, count=2, head_size=32, inner=128)
    image_side: int = IMAGE_SIDE
    num_rows: int | None = None  # of the embeddings; else one for each token of the tokenizer
    dtype: torch.dtype = torch.float32
    shards: str = "50GB"  # how large they may be


GEOMETRIES = {
    "small": Geometry(),
    # Its towers take a twentieth of the language model's arithmetic, as those of the 7B do.
    "wide": Geometry(text=Layers(512, 8, 128, 1024), tower=Layers(256, 2, 128, 512)),
    "mini": Geometry(image_side=2 * PATCH_SIDE),
    "1b": Geometry(
        Layers(2048, 16, 128, 5504), Layers(512, 12, 64, 2048), num_rows=NUM_ROWS, dtype=torch.float16, shards="720MB"
    ),
    # Vicuna-7B and CLIP ViT-L/14, as LanguageBind/Video-LLaVA-7B-hf has them (config.json, text_config, vision_config);
    # its shards are of 4.98, 4.95 and 4.81 GB.
    "7b": Geometry(
        Layers(4096, 32, 128, 11008), Layers(1024, 24, 64, 4096), num_rows=NUM_ROWS, dtype=torch.float16, shards="5GB"
    ),
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
    """Write config, random weights, tokenizer and image processor settings of a named geometry into a folder."""
    shape = GEOMETRIES[geometry]
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(geometry)
    config = make_config(geometry)
    model = AutoModelForImageTextToText.from_config(config, dtype=shape.dtype)  # type: ignore[no-untyped-call]
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with quiet_libraries():
        model.save_pretrained(folder, max_shard_size=shape.shards)
    tokenizer.save_pretrained(folder)
    make_image_processor(shape.image_side).save_pretrained(folder)


def make_tokenizer(geometry: str) -> PreTrainedTokenizerFast:
    """Train the tokenizer of a named geometry, in well under a second; large ones have the 7B's ids."""
    is_filled = GEOMETRIES[geometry].num_rows is not None
    size = NUM_IDS if is_filled else 512
    return train_tokenizer(CORPUS, vocab_size=size, context_length=CONTEXT_LENGTH, is_filled=is_filled)


def make_config(geometry: str) -> VideoLlavaConfig:
    """Return the configuration of a named geometry."""
    shape, tokenizer = GEOMETRIES[geometry], make_tokenizer(geometry)
    vision = CLIPVisionConfig(image_size=shape.image_side, patch_size=PATCH_SIDE, **shape.tower.as_config())
    text = {"vocab_size": shape.num_rows or len(tokenizer), "max_position_embeddings": CONTEXT_LENGTH}
    more = {"vision_feature_layer": -2, "initializer_range": INITIALIZER_RANGE}
    return assemble_config(tokenizer, vision, text | shape.text.as_config(), **more)


if __name__ == "__main__":
    main()
