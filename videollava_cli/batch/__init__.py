"""Many questions about many media: work lists, resume, JSON lines; knows nothing of models, decoders or terminals."""

import os
import stat
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class FileStamp:
    """By what a changed file is known: its size in bytes and when it was modified, in microseconds."""

    num_bytes: int
    modified_us: int

    @classmethod
    def of(cls, path: str) -> Self | None:
        """Return a file's stamp; None for what is no file on this disk."""
        try:
            found = os.stat(os.path.expanduser(path))
        except (OSError, ValueError):
            return None
        # Microseconds: nanoseconds since 1970 are beyond the integers that every reader of JSON holds exactly.
        return cls(found.st_size, found.st_mtime_ns // 1000) if stat.S_ISREG(found.st_mode) else None


@dataclass(frozen=True, slots=True)
class Source:
    """What may be a medium: a path or URL, and whether somebody named it, rather than a folder that holds it."""

    path: str
    is_named: bool = True


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one medium. `id` is what its line is known by: the path unless the user gave one."""

    id: str | int
    source: Source
    question: str
    stamp: FileStamp | None = None
