"""Processors that readings of several media share; knows who waits for one, nothing of what is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition


class Turns:
    """So many threads may work at the same time, however many media are being read.

    A reading has threads of its own, as many as it can use, and each takes a turn for every piece of work. So the last
    media of many are decoded by all processors, as the first are, and there are never more at work than there are.

    Args:
        num_processors: How many turns there are at a time.
    """

    def __init__(self, num_processors: int) -> None:
        self.num_processors = num_processors
        self._free = num_processors
        self._changed = Condition()

    @contextmanager
    def turn(self, is_wanted: Callable[[], bool]) -> Iterator[bool]:
        """Wait for a turn as long as it is wanted; give whether it was had."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or not is_wanted())
            is_had = is_wanted()
            self._free -= is_had
        try:
            yield is_had
        finally:
            with self._changed:
                self._free += is_had
                self._changed.notify_all()  # whoever waits may find that the rest was done meanwhile
