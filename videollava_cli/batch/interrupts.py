"""Ctrl-C while lines are in hand; knows signals, nothing of lines."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

from videollava_cli.errors import ExitStatus


class Interrupts:
    """What Ctrl-C does: it ends the program at once, but for work that is held, which is finished first.

    Use it as a context manager in the main thread.

    Args:
        tell: Called when Ctrl-C has to wait for work to be finished.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._is_holding = False
        self._is_wanted = False
        self._is_leaving = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def hold(self) -> None:
        """Let Ctrl-C wait until `release`; a second one does not."""
        self._is_holding = True

    def release(self) -> None:
        """End what `hold` began.

        Raises:
            KeyboardInterrupt: If Ctrl-C was pressed meanwhile.
        """
        self._is_holding = False
        if self._is_wanted:
            self._leave()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_leaving:
            os._exit(ExitStatus.INTERRUPTED)  # threads that read would be waited for
        if self._is_holding and not self._is_wanted:
            self._is_wanted = True
            with suppress(RuntimeError):  # stderr is just being written to
                self._tell()
            return
        self._leave()

    def _leave(self) -> None:
        self._is_leaving = True
        raise KeyboardInterrupt
