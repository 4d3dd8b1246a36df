"""The process itself: descriptors, on which C libraries print as they like, and signals that ask it to end."""

import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, NoReturn, Self
from weakref import WeakSet

from videollava_cli.errors import ExitStatus, Interrupted

STDOUT, STDERR = 1, 2
LEAVE_SECONDS = 3.0  # to save and to say what is to be said; `docker stop` kills after 10 s
NAMES_OF_STDOUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")

_scratch_folders: WeakSet[TemporaryDirectory[str]] = WeakSet()  # those of this process
_modes_before: dict[int, int] = {}  # the local modes (termios(3)) of a terminal whose echo is off


def reserve_descriptors() -> None:
    """Open descriptors 0 to 2 on nothing where the caller closed them: the next file would get their numbers."""
    for descriptor in range(STDERR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free


def keep_stdout() -> None:
    """Keep stdout for what Python writes: what C code prints there goes to stderr, unless Python's was replaced."""
    if sys.stdout is not sys.__stdout__ or (sys.__stdout__ and sys.__stdout__.fileno() != STDOUT):
        return
    if sys.__stdout__ is not None:
        sys.stdout = sys.__stdout__ = _moved(sys.__stdout__)  # type: ignore[misc]  # libraries ask for the terminal's size
    os.dup2(STDERR, STDOUT)


def silence_libraries() -> None:
    """Keep stderr for what Python writes: what C code prints there or on stdout goes nowhere."""
    if sys.stderr is not sys.__stderr__ or (sys.__stderr__ and sys.__stderr__.fileno() != STDERR):
        return
    if sys.__stderr__ is not None:
        sys.stderr = sys.__stderr__ = _moved(sys.__stderr__)  # type: ignore[misc]
    point_to_nothing(STDERR)
    if sys.stdout is None or sys.stdout.fileno() != STDOUT:
        os.dup2(STDERR, STDOUT)


def _moved(stream: TextIOWrapper) -> TextIOWrapper:
    """Return the stream on another descriptor, which child processes do not inherit."""
    stream.flush()
    binary = open(os.dup(stream.fileno()), "wb", closefd=False)  # noqa: SIM115  # open to the end, as Python's own
    return TextIOWrapper(binary, stream.encoding, stream.errors, line_buffering=stream.line_buffering)


def point_to_nothing(descriptor: int) -> None:
    """Let a descriptor take what is written, and forget it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def callers_path(path: Path) -> Path:
    """Return a path to write to that the user gave: `/dev/stdout` is where Python writes, not where C code does."""
    return Path(f"/dev/fd/{sys.stdout.fileno()}") if str(path) in NAMES_OF_STDOUT and sys.stdout else path


def scratch_folder() -> TemporaryDirectory[str]:
    """Make a temporary folder that goes away even if the process ends at once."""
    folder = TemporaryDirectory(prefix="vllava-", ignore_cleanup_errors=True)
    _scratch_folders.add(folder)
    return folder


@contextmanager
def echo_off() -> Iterator[None]:
    """While this lasts, the terminal that is stdout does not show what is typed amid an answer; who reads next gets it.

    A process in the background leaves its terminal alone, which would stop it.
    """
    try:
        _set_echo(is_on=False)
        yield
    finally:
        _set_echo(is_on=True)


def _set_echo(*, is_on: bool) -> None:
    if sys.stdout is None or not sys.stdout.isatty():
        return
    with suppress(ImportError, OSError):  # Windows has no termios
        import termios

        with suppress(termios.error):  # the terminal was closed
            descriptor = sys.stdout.fileno()
            if os.tcgetpgrp(descriptor) != os.getpgrp():
                return
            attributes = termios.tcgetattr(descriptor)
            if is_on and descriptor in _modes_before:
                attributes[3] = _modes_before.pop(descriptor)
            elif not is_on:
                _modes_before[descriptor] = attributes[3]
                attributes[3] &= ~termios.ECHO
            termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


def end_now(status: int) -> NoReturn:
    """End without waiting for threads: only remove what would fill the disk, and give a terminal its echo back."""
    _set_echo(is_on=True)
    for folder in tuple(_scratch_folders):
        folder.cleanup()
    os._exit(status)


class Ending:
    """What SIGTERM and SIGHUP do: raise `Interrupted` in the main thread, so that everything ends as with Ctrl-C.

    Another one, or `LEAVE_SECONDS` later, ends the process at once, and so does any of them behind this context, while
    Python waits for threads. `status` is None until one came; whatever comes of it is not raised again.
    """

    def __init__(self) -> None:
        self.status: ExitStatus | None = None
        self._is_over = False

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # one that is ignored, as by nohup, stays ignored
                signal.signal(number, self)
        return self

    def __exit__(self, *_: object) -> bool:
        self._is_over = True
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self)
        return self.status is not None

    def __call__(self, number: int, _frame: FrameType | None) -> NoReturn:
        """Handle a signal."""
        if self._is_over or self.status is not None:
            end_now(self.status or 128 + number)
        self.status = ExitStatus(128 + number)
        signal.signal(signal.SIGALRM, self)
        signal.setitimer(signal.ITIMER_REAL, LEAVE_SECONDS)
        leave_dead_terminal()
        raise Interrupted


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let Ctrl-C and the signals of `Ending` wait: raised amid torch's import, they would crash its C++ code.

    The second one ends the process at once. A program that has its own signal handlers is left alone.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if came:
            end_now(128 + number)
        came.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: handler for number in numbers if (handler := signal.getsignal(number)) in _ours()}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _ours() -> list[Any]:
    ending = signal.getsignal(signal.SIGTERM)
    return [ending, signal.default_int_handler] if isinstance(ending, Ending) else []


def leave_dead_terminal() -> None:
    """Point stdout and stderr to nothing if they are a terminal that was closed: writing to it would fail."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):  # no descriptor at all, as in tests
            descriptor = stream.fileno()
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                point_to_nothing(descriptor)
