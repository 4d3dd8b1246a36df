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

import av
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import VideoLlavaImageProcessor

from videollava_cli.api import load


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
        frames = _read(path)
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


def _read(path: str) -> NDArray[np.uint8]:
    """Return eight frames, as `read_video_pyav` of the documentation does: uint8 RGB, (8, H, W, 3)."""
    total_frames = _num_frames(path)
    with av.open(path) as container:
        indices = np.arange(0, total_frames, total_frames / 8).astype(int)
        wanted = []
        container.seek(0)
        for i, frame in enumerate(container.decode(video=0)):
            if i > indices[-1]:
                break
            if i >= indices[0] and i in indices:
                wanted.append(frame)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in wanted])


def _num_frames(path: str) -> int:
    """Return the number in the header, or where there is none, as in WebM, where the documented reader fails, ours."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        return stream.frames or sum(1 for packet in container.demux(stream) if packet.size)


if __name__ == "__main__":
    main()
