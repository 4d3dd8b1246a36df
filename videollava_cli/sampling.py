"""Which frames of a clip the model sees; pure arithmetic on counts and times."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from videollava_cli.media import NUM_FRAMES


def uniform_indices(total: int, num_frames: int = NUM_FRAMES) -> list[int]:
    """Return the indices of uniformly sampled frames: `floor(k * total / num_frames)`.

    The rule of the model's documentation, `np.arange(0, total, total / 8).astype(int)`, in exact integers. A
    clip of fewer frames repeats some, so that there are always `num_frames`.

    Raises:
        ValueError: If `total` is not positive.
    """
    if total < 1:
        raise ValueError(f"no frames to sample from: total is {total}")
    return [k * total // num_frames for k in range(num_frames)]


def repetition_notice(name: str, num_frames: int) -> str:
    """Return the sentence that tells of a clip with fewer frames than the model takes."""
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
