"""One clip or image asked as the model's documentation does (transformers docs, model_doc/video_llava), as a script.

`python -m benchmarks.documented_ask FOLDER MEDIUM QUESTION...` prints an answer a line, as it is written (TextStreamer,
transformers docs, generation_features). Nothing of ours is imported. What `VideoLlavaProcessor` adds, placeholders
spelt out in the prompt, is done here: with transformers 5 it wants torchvision.
"""

import inspect
import sys
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer, TextStreamer, VideoLlavaForConditionalGeneration, VideoLlavaImageProcessor

from benchmarks.documented_reader import read_clip

MAX_NEW_TOKENS = 512


def main() -> None:
    """Answer, and print."""
    folder, medium, *questions = sys.argv[1:]
    model: Any = VideoLlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    placeholders, pixels = _given(medium, VideoLlavaImageProcessor.from_pretrained(folder), model)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    for question in questions:
        inputs = tokenizer(f"USER: {placeholders}\n{question} ASSISTANT:", return_tensors="pt")
        model.generate(**inputs, **pixels, do_sample=False, max_new_tokens=MAX_NEW_TOKENS, streamer=streamer)


def _given(medium: str, image_processor: Any, model: Any) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the placeholders of a medium, and its pixel values under their name in `forward`."""
    if medium.endswith(".jpg"):
        pixels = image_processor(Image.open(medium).convert("RGB"), return_tensors="pt")
        is_new = "pixel_values" in inspect.signature(model.forward).parameters  # since transformers 5.23
        name = "pixel_values" if is_new else "pixel_values_images"
        return "<image>" * model.config.image_seq_length, {name: next(iter(pixels.values()))}
    pixels = image_processor(list(read_clip(medium)), return_tensors="pt")
    return "<video>" * model.config.video_seq_length, {"pixel_values_videos": next(iter(pixels.values()))[None]}


if __name__ == "__main__":
    main()
