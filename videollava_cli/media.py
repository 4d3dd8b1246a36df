"""The nouns: a medium, its kind, its frames."""

import hashlib
import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_FRAMES = 8  # frames per clip in Video-LLaVA's training (transformers docs, model_doc/video_llava)
# A file in a folder that bears one of these and is no medium is a broken one.
MEDIA_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".ivf", ".m2ts", ".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mxf", ".nut", ".ogv", ".webm", ".wmv"),
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)


class MediaKind(StrEnum):
    """What a file holds, decided by its content."""

    VIDEO = "video"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class FrameStamp:
    """Which frame of a file a picture is, in presentation order, and its time since players show 0:00.

    Frames that a program holds in memory may have no times: then it is `math.nan`.
    """

    index: int
    seconds: float

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"negative frame index: {self.index}")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Medium:
    """Eight frames of a video, or one still picture, at the model's side S.

    `pixels` is uint8 RGB, (T, S, S, 3): T = 8 for a video, 1 for an image. `stamps` has one entry a frame of a video
    and none for an image. `notices` are things the user should know about how it was read, such as repeated frames;
    `details` are shown with --verbose only.
    """

    name: str
    kind: MediaKind
    pixels: "NDArray[np.uint8]"
    stamps: tuple[FrameStamp, ...] = ()
    notices: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        num_stamps = 0 if self.kind is MediaKind.IMAGE else len(self.pixels)
        is_batch = self.pixels.ndim == 4 and self.pixels.shape[3] == 3
        if not is_batch or len(self.stamps) != num_stamps or (self.kind is MediaKind.IMAGE and len(self.pixels) != 1):
            raise ValueError(f"no {self.kind}: pixels of shape {self.pixels.shape}, {len(self.stamps)} stamps")

    def __repr__(self) -> str:
        num_frames, height, width, _ = self.pixels.shape
        return f"<Medium {self.name!r}: {self.kind}, {num_frames} x {height} x {width}>"

    @property
    def digest(self) -> str:
        """A digest of the pixels, 32 hexadecimal digits; saved conversations hold it."""
        return hashlib.blake2b(self.pixels.tobytes(), digest_size=16).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Return the medium as it stands in a JSON line."""
        frames = [asdict(s) | ({"seconds": None} if math.isnan(s.seconds) else {}) for s in self.stamps]
        return {"path": self.name, "kind": self.kind.value, "frames": frames}
