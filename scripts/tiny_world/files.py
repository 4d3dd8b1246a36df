"""Pictures of the world as real files."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image


def write_clip(
    path: Path, frames: NDArray[np.uint8], *, rate: int = 24, codec: str = "libx264", quality: int = 23
) -> None:
    """Encode frames, uint8 RGB, (T, H, W, 3) of even sides; `quality` is the constant rate factor, lower is better."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options={"crf": str(quality), "b": "0"})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_still(path: Path, pixels: NDArray[np.uint8], *, quality: int = 90) -> None:
    """Save one picture, uint8 RGB, (H, W, 3); the format follows from the name."""
    Image.fromarray(pixels).save(path, quality=quality)
