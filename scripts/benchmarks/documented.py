"""What the model's documentation does (transformers docs, model_doc/video_llava); imports nothing of ours.

`VideoLlavaProcessor` would spell out placeholders too, but wants torchvision with transformers 5: that is done here.

python -m benchmarks.documented ask FOLDER MEDIUM QUESTION...               prints an answer a line, as it is written
python -m benchmarks.documented loop FOLDER QUESTION MAX_NEW_TOKENS CLIP... prints a JSON object a clip
"""

import inspect
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

MAX_NEW_TOKENS = 512


def read_clip(path: str) -> NDArray[np.uint8]:
    """Return eight frames: uint8 RGB, (8, H, W, 3); counts those of a WebM, where the documented reader fails."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        total_frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    with av.open(path) as container:
        return frames_of(container, total_frames)


def frames_of(container: InputContainer, total_frames: int) -> NDArray[np.uint8]:
    """Return eight frames of so many, as `read_video_pyav` of the documentation does: uint8 RGB, (8, H, W, 3)."""
    indices = np.arange(0, total_frames, total_frames / 8).astype(int)
    wanted = []
    container.seek(0)
    for i, frame in enumerate(container.decode(video=0)):
        if i > indices[-1]:
            break
        if i >= indices[0] and i in indices:
            wanted.append(frame)
    return np.stack([frame.to_ndarray(format="rgb24") for frame in wanted])


def text_inputs(model: Any, tokenizer: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Return ids and mask of prompts, placeholders spelt out: int64, (B, T)."""
    lengths = {"<image>": model.config.image_seq_length, "<video>": model.config.video_seq_length}
    for word, length in lengths.items():
        texts = [text.replace(word, word * length) for text in texts]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    return {name: tensor.to(model.device) for name, tensor in tokens.items()}


def pixel_inputs(
    model: Any, image_processor: Any, images: Sequence[Any] = (), clips: Sequence[NDArray[np.uint8]] = ()
) -> dict[str, Any]:
    """Return pixel values of images and clips under the names that they have in `forward`."""
    import torch

    inputs = {}
    if images:
        is_new = "pixel_values" in inspect.signature(model.forward).parameters  # since transformers 5.23
        inputs["pixel_values" if is_new else "pixel_values_images"] = _processed(image_processor, images)
    if clips:
        inputs["pixel_values_videos"] = torch.stack([_processed(image_processor, list(clip)) for clip in clips])
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}


def _processed(image_processor: Any, pictures: Sequence[Any]) -> Any:
    return next(iter(image_processor(pictures, return_tensors="pt").values()))


def ask(folder: str, medium: str, *questions: str) -> None:
    """Answer questions about a clip or an image, and print (TextStreamer, transformers docs, generation_features)."""
    from PIL import Image
    from transformers import TextStreamer

    model, tokenizer, image_processor = _loaded(folder)
    is_image = medium.endswith(".jpg")
    shown: dict[str, Any] = (
        {"images": [Image.open(medium).convert("RGB")]} if is_image else {"clips": [read_clip(medium)]}
    )
    pixels = pixel_inputs(model, image_processor, **shown)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    for question in questions:
        prompt = f"USER: {'<image>' if is_image else '<video>'}\n{question} ASSISTANT:"
        text = text_inputs(model, tokenizer, [prompt])
        model.generate(**text, **pixels, do_sample=False, max_new_tokens=MAX_NEW_TOKENS, streamer=streamer)


def loop(folder: str, question: str, max_new_tokens: str, *clips: str) -> None:
    """Ask one question about clip after clip, and print."""
    model, tokenizer, image_processor = _loaded(folder)
    text = text_inputs(model, tokenizer, [f"USER: <video>\n{question} ASSISTANT:"])
    for path in clips:
        began = time.perf_counter()
        frames = read_clip(path)
        read = time.perf_counter()
        pixels = pixel_inputs(model, image_processor, clips=[frames])
        ids = model.generate(**text, **pixels, do_sample=False, max_new_tokens=int(max_new_tokens))
        answer = tokenizer.decode(ids[0, text["input_ids"].shape[1] :], skip_special_tokens=True)
        seconds = {"read_s": read - began, "answer_s": time.perf_counter() - read}
        print(json.dumps({"id": path, "answer": answer, **seconds}), flush=True)


def _loaded(folder: str) -> tuple[Any, Any, Any]:
    import torch
    from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration, VideoLlavaImageProcessor

    model: Any = VideoLlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder), VideoLlavaImageProcessor.from_pretrained(folder)


if __name__ == "__main__":
    (ask if sys.argv[1] == "ask" else loop)(*sys.argv[2:])
