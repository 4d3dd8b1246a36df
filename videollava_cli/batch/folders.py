"""Which files there are in folders; knows names, nothing of what the files hold."""

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from videollava_cli.batch import Source

# A file in a folder that bears one of these and is no medium is a broken one, and not passed over in silence.
MEDIA_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".ivf", ".m2ts", ".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mxf", ".nut", ".ogv", ".webm", ".wmv"),
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)


def find_files(paths: Sequence[str], patterns: Sequence[str] = ()) -> Iterator[Source]:
    """Yield the paths in their order, each folder replaced by the files in it and below, sorted by name.

    Hidden files and folders are passed over unless they are named. Links are followed, and a folder that is
    reached a second time, as through a link to one that holds it, is not entered again.

    Args:
        paths: Files, folders, or what is neither, such as URLs.
        patterns: Shell patterns of files in folders, all by default. One with a slash is matched against the path
            from the folder on, another against the name alone.
    """
    entered: set[tuple[int, int]] = set()
    for path in paths:
        folder = os.path.expanduser(path)
        if "://" in path or not os.path.isdir(folder):
            yield Source(path)
            continue
        for name in _names_below(folder, entered):
            if not patterns or any(_matches(name, pattern) for pattern in patterns):
                yield Source(os.path.join(path, name), is_named=False)


def says_it_is_media(path: str) -> bool:
    """Return whether a file's name ends like that of a video or an image."""
    return path.lower().endswith(MEDIA_SUFFIXES)


def _names_below(folder: str, entered: set[tuple[int, int]], prefix: str = "") -> Iterator[str]:
    """Yield the regular files in a folder and below, as paths from the folder on."""
    try:
        found = os.stat(folder)
        if (found.st_dev, found.st_ino) in entered:
            return
        entered.add((found.st_dev, found.st_ino))
        with os.scandir(folder) as entries:
            visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
    except OSError:  # it is gone, or may not be read
        return
    for entry in visible:
        if _is_folder(entry):
            yield from _names_below(entry.path, entered, f"{prefix}{entry.name}/")
        elif entry.is_symlink() or entry.is_file():  # a link to nowhere is told when it is read
            yield prefix + entry.name


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name if "/" in pattern else os.path.basename(name), pattern)
