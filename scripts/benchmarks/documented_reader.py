"""The reader of the model's documentation (transformers docs, model_doc/video_llava): decodes from the beginning."""

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray


def read_clip(path: str) -> NDArray[np.uint8]:
    """Return eight frames: uint8 RGB, (8, H, W, 3)."""
    total_frames = _num_frames(path)
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


def _num_frames(path: str) -> int:
    """Return the number in the header, or where there is none, as in WebM, where the documented reader fails, ours."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        return stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
