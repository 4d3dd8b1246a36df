"""How a reader brings frames to the model's side, and how it is stopped; knows nothing of files."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ReadingStopped(Exception):  # noqa: N818 (no error: somebody asked for it)
    """Reading ended before its end, since `MediaReader.stop` was called."""


@dataclass(frozen=True, slots=True)
class Shrink:
    """Bring uint8 RGB, (H, W, 3), to uint8 RGB, (S, S, 3), until told to stop."""

    to_side: "Callable[[NDArray[np.uint8]], NDArray[np.uint8]]"
    stopped: Event

    def __call__(self, rgb: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
        """Return the frame at the model's side.

        Raises:
            ReadingStopped: If told to stop.
        """
        self.check()
        return self.to_side(rgb)

    def check(self) -> None:
        """Leave if told to stop; for the work between two wanted frames.

        Raises:
            ReadingStopped: If told to stop.
        """
        if self.stopped.is_set():
            raise ReadingStopped
