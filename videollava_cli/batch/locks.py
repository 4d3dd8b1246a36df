"""One process at a time may write a file; knows locks, nothing of what is written."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from videollava_cli.errors import UsageError

try:
    import fcntl
except ImportError:  # as on Windows
    fcntl = None  # type: ignore[assignment]


def lock(descriptor: int, path: Path) -> Callable[[], None]:
    """Lock an open file until it is closed, or this process ends in whatever way.

    Where the system or the file system has no such locks, a file beside it, `NAME.lock`, stands for one; if a process
    is killed it stays there.

    Returns:
        What to call when the file was closed.

    Raises:
        UsageError: If another process writes it.
    """
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another process is writing {str(path)!r}: wait for it, or give another -o") from error
        except OSError:  # a file system without locks
            return lock_beside(path)
        return lambda: None
    return lock_beside(path)


def lock_beside(path: Path) -> Callable[[], None]:
    """Make the file that stands for a lock; return what removes it.

    Raises:
        UsageError: If it is there, or cannot be made.
    """
    stand_in = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(stand_in, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError as error:
        raise UsageError(
            f"another process is writing {str(path)!r}, or was killed: if none is, remove {str(stand_in)!r}"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot lock {str(path)!r}: {error.strerror or error}") from error
    os.close(descriptor)

    def remove() -> None:
        """Unlock, whoever else may have removed the file meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            stand_in.unlink()

    return remove
