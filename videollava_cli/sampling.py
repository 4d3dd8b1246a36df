"""Which frames of a clip the model sees; pure arithmetic on counts and times."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from videollava_cli.media import NUM_FRAMES


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

    def chosen(self, seconds: Sequence[float]) -> list[int]:
        """Return the indices of eight frames of a clip, given the time of each; none if the window has no frame."""
        positions = self.positions(seconds)
        return [positions[i] for i in uniform_indices(len(positions))] if positions else []

    def error_message(self, name: str, seconds: Sequence[float]) -> str:
        """Return what is wrong when no frame was chosen."""
        return f"{name!r} has no frames between the times asked for: its last frame is at {seconds[-1]:.2f} s"

    def notices(self, name: str, seconds: Sequence[float]) -> list[str]:
        """Return what the user should know about the choice: frames that are repeated."""
        num_frames = len(self.positions(seconds))
        return [repetition_notice(name, num_frames)] if num_frames < NUM_FRAMES else []


@dataclass(frozen=True, slots=True)
class Moments:
    """The eight moments to take frames of, in seconds, given by the user."""

    seconds: tuple[float, ...]
    is_whole = False

    def __post_init__(self) -> None:
        if len(self.seconds) != NUM_FRAMES or list(self.seconds) != sorted(self.seconds) or self.seconds[0] < 0:
            raise ValueError(f"not {NUM_FRAMES} ascending times from 0 on: {self.seconds}")

    def chosen(self, seconds: Sequence[float]) -> list[int]:
        """Return the indices of the frames that are on display at the moments; none if one is behind the last frame."""
        if not seconds or self.seconds[-1] > seconds[-1]:
            return []
        return [max(bisect_right(seconds, moment) - 1, 0) for moment in self.seconds]  # 0: before the first frame

    def error_message(self, name: str, seconds: Sequence[float]) -> str:
        """Return what is wrong when no frame was chosen."""
        return f"{name!r} has no frame at {self.seconds[-1]:g} s: its last frame is at {seconds[-1]:.2f} s"

    def notices(self, name: str, seconds: Sequence[float]) -> list[str]:
        """Return what the user should know about the choice: nothing, as it is theirs."""
        return []


Sampling = Window | Moments
