"""A question whose answer is known, to the bundled model: reader, preprocessing and engine have to work for it."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from videollava_cli.doctor.facts import SelfTest
from videollava_cli.errors import VllavaError, first_line
from videollava_cli.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUESTION, EXPECTED = "What happens?", "A red circle moves from left to right."
SIDE, NUM_FRAMES, FRAMES_PER_SECOND = 224, 16, 8
# As the model's training drew them (scripts/tiny_world): colours, and lengths in sides of the picture.
RED, WHITE = (222, 40, 40), (252, 252, 252)
RADIUS, FIRST_X, LAST_X = 0.2, 0.25, 0.75


def run_self_test(settings: Settings) -> SelfTest:
    """Draw a clip, write it to a file, and ask the bundled model about it on the device of the settings."""
    from videollava_cli.engine.startup import load

    began = time.perf_counter()
    answer = reason = None
    try:
        with TemporaryDirectory(prefix="vllava-doctor-") as folder:
            path = Path(folder, "circle.mp4")
            write_clip(path)
            engine = load("tiny", device=settings.device, dtype=settings.dtype)
            answer = "".join(chunk.text for chunk in engine.ask([path], QUESTION))
    except (VllavaError, OSError, RuntimeError) as error:  # FFmpeg's and torch's are of the latter two
        reason = first_line(error)
    return SelfTest(QUESTION, EXPECTED, answer, time.perf_counter() - began, reason)


def draw_frames() -> "NDArray[np.uint8]":
    """Draw a red circle that moves from left to right: uint8 RGB, (T, H, W, 3)."""
    import numpy as np

    across = (np.arange(SIDE) + 0.5) / SIDE
    centers = np.linspace(FIRST_X, LAST_X, NUM_FRAMES)
    distances = np.hypot(across[None, None, :] - centers[:, None, None], across[None, :, None] - 0.5) - RADIUS
    inside = np.clip(0.5 - distances * SIDE, 0, 1)[..., None]
    return np.asarray(inside * RED + (1 - inside) * WHITE, dtype=np.uint8)


def write_clip(path: Path) -> None:
    """Encode the frames with MPEG-4, an encoder that every FFmpeg has."""
    import av
    from av.video.stream import VideoStream

    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=FRAMES_PER_SECOND, options={"qscale": "2", "flags": "+qscale"})
        assert isinstance(stream, VideoStream)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for frame in draw_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
