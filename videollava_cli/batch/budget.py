"""A bound that threads share; knows amounts, nothing of what they are of."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock


class Budget:
    """An amount of which threads take shares, and wait while too little is left.

    Whoever waits is served before whoever comes later, so that small shares do not keep a large one waiting for ever.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._left = total
        self._turn = Lock()
        self._changed = Condition()

    @contextmanager
    def share(self, amount: int) -> Iterator[None]:
        """Hold a share; one that is larger than the whole is the whole."""
        amount = min(amount, self.total)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()
