"""Clips asked as the model's documentation does (transformers docs, model_doc/video_llava): a loop in one process.

`python -m benchmarks.documented_loop MODEL QUESTION MAX_NEW_TOKENS CLIP...` loads the model once and prints a JSON
object a clip: its reader decodes the clip from its beginning, `VideoLlavaImageProcessor` makes the pixel values, and
`model.generate` the answer. What `VideoLlavaProcessor` adds, placeholders spelt out in the prompt, is done here: with
transformers 5 it wants torchvision.
"""

import json
import sys
import time
from typing import Any

import torch
from transformers import VideoLlavaImageProcessor

from benchmarks.documented_reader import read_clip
from videollava_cli.engine.startup import load


def main() -> None:
    """Answer, and print an object a clip."""
    model_name, question, max_new_tokens, *clips = sys.argv[1:]
    engine = load(model_name, device="cpu")  # from_pretrained, with our presets' names
    model: Any = engine.model
    image_processor = VideoLlavaImageProcessor.from_pretrained(engine.checkpoint.folder)
    placeholders = "<video>" * engine.checkpoint.tokens_per_video
    encoded = engine.tokenizer(f"USER: {placeholders}\n{question} ASSISTANT:", return_tensors="pt")
    ids = encoded["input_ids"]
    for path in clips:
        began = time.perf_counter()
        frames = read_clip(path)
        read = time.perf_counter()
        pixels: Any = image_processor(list(frames), return_tensors="pt")
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values_videos=next(iter(pixels.values()))[None],
                do_sample=False,
                max_new_tokens=int(max_new_tokens),
            )
        answer = engine.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        seconds = {"read_s": read - began, "answer_s": time.perf_counter() - read}
        print(json.dumps({"id": path, "answer": answer, **seconds}), flush=True)


if __name__ == "__main__":
    main()
