"""Keep quantized checkpoints on disk from one process to the next; handles files and sums, and imports no torch."""

import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from videollava_cli.console import bytes_in_words
from videollava_cli.engine.checkpoint import Checkpoint, weight_files
from videollava_cli.errors import first_line
from videollava_cli.settings import xdg_folder
from videollava_cli.text import parsed

FORMAT = 1  # of an entry; entries of another one are made again
MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"
BLOCK_BYTES = 16 << 20  # of a file have a CRC-32 each, so that all processors can check one file
PIECE_BYTES = 1 << 20  # read at once


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder of the cache: its size on disk in bytes, and when it was last used, in seconds since 1970.

    `state` is `kept`, `unfinished` (a process is writing it, or was killed meanwhile) or `damaged`, by its `problem`.
    """

    folder: Path
    model: str
    what: str
    num_bytes: int
    used: float
    state: str
    problem: str | None

    @property
    def name(self) -> str:
        """The entry's name in the cache."""
        return self.folder.name


def cache_folder() -> Path:
    """Return the folder of quantized checkpoints: `$XDG_CACHE_HOME/vllava/quantized`."""
    return xdg_folder("CACHE") / "quantized"


def entries(root: Path) -> list[Entry]:
    """Return the entries of the cache, by name, checked as at start: no weights are read."""
    if not root.is_dir():
        return []
    return [check_entry(folder) for folder in sorted(root.iterdir()) if folder.is_dir()]


def check_entry(folder: Path, *, reads_weights: bool = False) -> Entry:
    """Return an entry of the cache with its state."""
    known = _read_manifest(folder) or {}
    is_unfinished = folder.name.endswith(UNFINISHED)
    problem = None if is_unfinished else find_damage(folder, reads_weights=reads_weights)
    state = "unfinished" if is_unfinished else "damaged" if problem else "kept"
    used = 0.0
    for path in (folder, folder / MANIFEST):
        with suppress(OSError):  # another process may remove it meanwhile
            used = path.stat().st_mtime
    return Entry(folder, known.get("model", ""), known.get("what", ""), _folder_bytes(folder), used, state, problem)


def find_damage(folder: Path, *, reads_weights: bool) -> str | None:
    """Return the first problem of an entry by the sizes of its files and their sums, or None.

    Sums of the weights, gigabytes, are compared on request only. Loading checks the headers of weight files.
    """
    manifest = _read_manifest(folder)
    if manifest is None:
        return f"{MANIFEST} is missing or makes no sense"
    for name, file in manifest["files"].items():
        path = folder / name
        try:
            if path.stat().st_size != file["bytes"]:
                return f"{name} has {path.stat().st_size:,} bytes in place of {file['bytes']:,}"
            if (reads_weights or path.suffix == ".json") and _sums(path) != file["sums"]:
                return f"{name} has changed"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or error}"
    return None


def identity_of(checkpoint: Checkpoint, **how: str) -> dict[str, Any]:
    """Return everything on which a quantized checkpoint depends: weights on this disk, `how` they are quantized."""
    folder = checkpoint.folder.resolve()  # a hub's snapshot folder is named after its commit
    stats = [(path.name, path.stat()) for path in (folder / "config.json", *weight_files(folder))]
    return {
        "format": FORMAT,
        "checkpoint": f"{checkpoint.hub_id}@{folder.name}" if checkpoint.hub_id else str(folder),
        "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
        "how": dict(sorted(how.items())),
        "libraries": {name: metadata.version(name) for name in ("torch", "transformers", "bitsandbytes")},
    }


@dataclass(frozen=True, slots=True)
class QuantizedCache:
    """The folder of quantized checkpoints, one folder an entry; `on_notice` gets a line for the user."""

    root: Path
    on_notice: Callable[[str], None]

    def folder_of(self, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> Path:
        """Return the folder of a quantized checkpoint, whether or not it is there."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        stem = Path(checkpoint.hub_id or checkpoint.folder.resolve()).name
        return self.root / f"{stem}-4bit-{digest}"

    def find(self, folder: Path) -> bool:
        """Return whether an entry is there and looks sound, and note its use; remove a damaged one."""
        if not folder.is_dir():
            return False
        if problem := find_damage(folder, reads_weights=False):
            self.discard(folder, problem)
            return False
        with suppress(OSError):
            os.utime(folder / MANIFEST)
        return True

    def discard(self, folder: Path, problem: str) -> None:
        """Remove an entry that cannot be used, with a notice."""
        self.on_notice(f"the quantized weights in {str(folder)!r} are damaged ({problem}), so they are made again")
        shutil.rmtree(folder, ignore_errors=True)

    def keep(self, folder: Path, manifest: Mapping[str, Any], write: Callable[[Path], object]) -> None:
        """Have an entry written beside its place, and move it there when it is whole and on the disk.

        The manifest has the keys `model`, `what` and `identity`. Of two processes that write the same entry the first
        wins. A disk that does not take it is a notice, and nothing is left behind.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with TemporaryDirectory(UNFINISHED, f"{folder.name}.", self.root, ignore_cleanup_errors=True) as name:
                draft = Path(name)
                write(draft)
                _seal(draft, manifest)
                num_bytes = _folder_bytes(draft)
                try:
                    draft.rename(folder)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was first
                        raise
        except (OSError, RuntimeError, ValueError) as error:  # safetensors and torch translate a full disk variously
            reason = getattr(error, "strerror", None) or first_line(error)
            self.on_notice(f"the quantized weights cannot be kept in {str(self.root)!r}: {reason}")
        else:
            self.on_notice(f"quantized; kept for next time in {str(folder)!r} ({bytes_in_words(num_bytes)})")


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = parsed(json.loads, (folder / MANIFEST).read_text(encoding="utf-8"))
        sums = [(file["bytes"] + 0, [number + 0 for number in file["sums"]]) for file in manifest["files"].values()]
        is_whole = all(len(found) == -(-num_bytes // BLOCK_BYTES) for num_bytes, found in sums)
        is_ours = is_whole and manifest["format"] == FORMAT and isinstance(manifest["model"] + manifest["what"], str)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if is_ours else None


def _seal(draft: Path, manifest: Mapping[str, Any]) -> None:
    """Flush the files of an entry to the disk, then its manifest with their sums."""
    files = {}
    for path in sorted(draft.iterdir()):
        files[path.name] = {"bytes": path.stat().st_size, "sums": _sums(path)}
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    with (draft / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **manifest, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _sums(path: Path) -> list[int]:
    def sum_of(start: int) -> int:
        total = 0
        with path.open("rb") as file:
            file.seek(start)
            for _ in range(BLOCK_BYTES // PIECE_BYTES):
                total = zlib.crc32(file.read(PIECE_BYTES), total)
        return total

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(sum_of, range(0, path.stat().st_size, BLOCK_BYTES)))


def _folder_bytes(folder: Path) -> int:
    with suppress(OSError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0  # another process has just removed it
