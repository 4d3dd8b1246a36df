"""The nouns: a clip, an image, their frames; knows nothing of files, models or prompts."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_FRAMES = 8  # frames per clip in Video-LLaVA's training (transformers docs, model_doc/video_llava)


class MediaKind(StrEnum):
    """What a file holds, decided by its content."""

    VIDEO = "video"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class FrameStamp:
    """Which frame of a file a picture is: its index in presentation order and its time.

    `seconds` counts from the moment that players show as 0:00.
    """

    index: int
    seconds: float

    def __post_init__(self) -> None:
        if self.index < 0:
            raise ValueError(f"negative frame index: {self.index}")


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Eight frames of a video, resized and cropped to the model's side S.

    `frames` is uint8 RGB, (8, S, S, 3); `stamps` has one entry a frame; `notices` are things the user should
    know about how it was read, such as repeated frames, and `details` what only who asks for it should.
    """

    name: str
    frames: "NDArray[np.uint8]"
    stamps: tuple[FrameStamp, ...]
    notices: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    kind = MediaKind.VIDEO

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[3] != 3 or len(self.stamps) != len(self.frames):
            raise ValueError(f"not frames with stamps: shape {self.frames.shape}, {len(self.stamps)} stamps")


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One still picture, resized and cropped to the model's side S: `pixels` is uint8 RGB, (S, S, 3)."""

    name: str
    pixels: "NDArray[np.uint8]"
    notices: tuple[str, ...] = ()

    kind = MediaKind.IMAGE

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(f"not an RGB picture: shape {self.pixels.shape}")


Medium = Clip | Image


def json_medium(medium: Medium) -> dict[str, Any]:
    """Return a medium as it stands in a JSON line: its name, what it is, and the frames that were taken."""
    stamps = medium.stamps if isinstance(medium, Clip) else ()
    return {"path": medium.name, "kind": medium.kind.value, "frames": [asdict(stamp) for stamp in stamps]}
