"""Which frames of a clip the model sees; pure arithmetic on counts and times."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from videollava_cli.media import NUM_FRAMES

CLOCK_TIME = re.compile(r"(?:(\d+):)?(\d+):([0-5]?\d(?:\.\d+)?)")
UNIT_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def uniform_indices(total: int, num_frames: int = NUM_FRAMES) -> list[int]:
    """Return the indices of uniformly sampled frames: `floor(k * total / num_frames)`.

    The rule of the model's documentation, `np.arange(0, total, total / 8).astype(int)`, in exact integers. A
    clip of fewer frames repeats some, so that there are always `num_frames`.
    """
    if total < 1:
        raise ValueError(f"no frames to sample from: total is {total}")
    return [k * total // num_frames for k in range(num_frames)]


def repetition_notice(name: str, num_frames: int) -> str:
    """Return the notice about a clip with fewer frames than the model takes."""
    return f"{name!r} has {num_frames} frame{'s' if num_frames > 1 else ''} to sample: repeated to make {NUM_FRAMES}"


@dataclass(frozen=True, slots=True)
class Timeline:
    """When the frames of a clip are shown: each from its second until that of the next, the last until `end`."""

    seconds: Sequence[float]  # ascending
    end: float

    def on_display(self, moment: float) -> int | None:
        """Return the index of the frame on display at a moment, the first one before it comes; None from the end on."""
        return max(bisect_right(self.seconds, moment) - 1, 0) if self.seconds and moment < self.end else None


def parse_seconds(text: str) -> float:
    """Return the seconds that a time means, as ffmpeg writes times: 90, 1.5s, 1:30, 1:02:03.5; or 1h2m3s.

    Raises ValueError if it means none.
    """
    text = text.strip().lower()
    if match := CLOCK_TIME.fullmatch(text) or (text and UNIT_TIME.fullmatch(text)):
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return 3600 * hours + 60 * minutes + seconds
    return float(text)


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a clip to sample from: seconds in [start, end), None leaves a side open."""

    start: float | None = None
    end: float | None = None

    def positions(self, seconds: Sequence[float]) -> range:
        """Return the positions of the sorted times that lie in the window."""
        first = 0 if self.start is None else bisect_left(seconds, self.start)
        last = len(seconds) if self.end is None else bisect_left(seconds, self.end)
        return range(first, max(first, last))

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the clip, so that no frame's time matters."""
        return self.start is None and self.end is None

    def chosen(self, clip: Timeline) -> list[int]:
        """Return the indices of eight frames of a clip; none if the window lies behind its end.

        If no frame begins in the window, they are the one on display at its start.
        """
        if positions := self.positions(clip.seconds):
            return [positions[i] for i in uniform_indices(len(positions))]
        shown = clip.on_display(self.start or 0.0)
        return [] if shown is None else [shown] * NUM_FRAMES

    def error_message(self, name: str, clip: Timeline) -> str:
        """Return what is wrong when no frame was chosen."""
        return f"{name!r} has no frames between the times asked for: its last frame is at {clip.seconds[-1]:.2f} s"

    def notices(self, name: str, clip: Timeline) -> list[str]:
        """Return what the user should know about the choice: frames that are repeated."""
        num_frames = len(self.positions(clip.seconds))
        if num_frames:
            return [repetition_notice(name, num_frames)] if num_frames < NUM_FRAMES else []
        end = "the end" if self.end is None else f"{self.end:g} s"
        shown = clip.seconds[self.chosen(clip)[0]]
        return [
            f"no frame of {name!r} begins between {self.start or 0:g} s and {end}: "
            f"the one that is shown then, at {shown:.2f} s, is repeated to make {NUM_FRAMES}"
        ]


@dataclass(frozen=True, slots=True)
class Moments:
    """The eight moments to take frames of, in seconds, given by the user."""

    seconds: tuple[float, ...]
    is_whole = False

    def __post_init__(self) -> None:
        if len(self.seconds) != NUM_FRAMES or list(self.seconds) != sorted(self.seconds) or self.seconds[0] < 0:
            raise ValueError(f"not {NUM_FRAMES} ascending times from 0 on: {self.seconds}")

    def chosen(self, clip: Timeline) -> list[int]:
        """Return the indices of the frames that are on display at the moments; none if one is behind the clip's end."""
        shown = [clip.on_display(moment) for moment in self.seconds]
        return [index for index in shown if index is not None] if None not in shown else []

    def error_message(self, name: str, clip: Timeline) -> str:
        """Return what is wrong when no frame was chosen."""
        return f"{name!r} has no frame at {self.seconds[-1]:g} s: its last frame is at {clip.seconds[-1]:.2f} s"

    def notices(self, name: str, clip: Timeline) -> list[str]:
        """Return what the user should know about the choice: nothing, as it is theirs."""
        return []


Sampling = Window | Moments
