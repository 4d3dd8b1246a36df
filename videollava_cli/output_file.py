"""Whether a command may write a file: an output never takes the place of what a run reads, nor of a user's own file."""

import os
import stat
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from videollava_cli.errors import OutputError, UsageError

STDIN = "-"


def check_output(
    path: Path,
    form: str,
    is_in_form: Callable[[Path], bool] | None,
    inputs: Iterable[str] = (),
    *,
    is_stream_fine: bool = True,
) -> None:
    """Refuse by a UsageError a name that cannot be written, or whose file must not be replaced.

    That is a file that is one of the `inputs`, under whatever name, and one that is neither empty nor of our form, as
    `is_in_form` says; None stands for any form. `form` is the form in words. `is_stream_fine` is False for an output
    that is renamed into its place: it would remove a pipe or a device.
    """
    name = repr(str(path))
    if path.is_dir():
        raise UsageError(f"cannot write {name}: it is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {name}: there is no folder {str(path.parent)!r}")
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"cannot write {name}: {error.strerror}") from error
    is_device = stat.S_ISCHR(found.st_mode)  # such as a terminal, where reading and writing do not meet
    if not is_device and any((other := _stat(each)) and os.path.samestat(found, other) for each in inputs):
        raise UsageError(f"{name} is read by this run, and would be lost: give another name")
    if not stat.S_ISREG(found.st_mode):
        if not is_stream_fine:
            raise UsageError(f"cannot write {name}: it is a pipe or a device: give the name of a file")
        return
    try:
        is_fine = is_in_form is None or found.st_size == 0 or is_in_form(path)
    except OSError as error:
        raise OutputError(f"cannot write {name}: reading what it holds fails: {error.strerror}") from error
    if not is_fine:
        raise UsageError(f"{name} is there and holds no {form}: give another name")


def is_same_file(one: Path, other: Path) -> bool:
    """Return whether two names are of one file, which need not be there yet."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    found, also = _stat(str(one)), _stat(str(other))
    return found is not None and also is not None and os.path.samestat(found, also)


def _stat(name: str) -> os.stat_result | None:
    with suppress(OSError, ValueError, AttributeError):  # there is none; no path can be so; stdin is closed
        return os.fstat(sys.stdin.fileno()) if name == STDIN else os.stat(os.path.expanduser(name))
    return None
