"""Quantized checkpoints kept on disk from one process to the next; knows files and sums, nothing of torch."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from videollava_cli.console import bytes_in_words
from videollava_cli.engine.checkpoint import BUNDLED_FOLDER, Checkpoint, weight_files
from videollava_cli.errors import first_line

FORMAT = 1  # of an entry; entries of another one are made again
MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"
BLOCK_BYTES = 16 << 20  # a sum each, so that as many threads as there are processors check one file
LIBRARIES = ("torch", "transformers", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder of the cache. `used` is in seconds since 1970, `num_bytes` what it takes on disk.

    `state` is `kept`, `unfinished` (a process that writes it, or was killed while it did) or `damaged`.
    """

    folder: Path
    model: str
    what: str
    num_bytes: int
    used: float
    state: str

    @property
    def name(self) -> str:
        """The entry's name in the cache."""
        return self.folder.name


def is_keepable(checkpoint: Checkpoint) -> bool:
    """Tell whether a quantized copy saves time: the bundled model is quantized sooner than its copy is checked."""
    return BUNDLED_FOLDER not in checkpoint.folder.parents


def identity_of(checkpoint: Checkpoint, **how: str) -> dict[str, Any]:
    """Return all that a quantized checkpoint depends on: weights, way of quantizing, libraries.

    Args:
        checkpoint: Its weights are on this disk. A hub's snapshot folder is named after its commit.
        how: The way of quantizing, and what else decides about the numbers.
    """
    folder = checkpoint.folder.resolve()
    files = [folder / "config.json", *weight_files(folder)]
    stats = [(path.name, path.stat()) for path in files]
    return {
        "format": FORMAT,
        "checkpoint": f"{checkpoint.hub_id}@{folder.name}" if checkpoint.hub_id else str(folder),
        "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
        "how": dict(sorted(how.items())),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }


@dataclass(frozen=True, slots=True)
class QuantizedStore:
    """The folder of quantized checkpoints, one folder an entry; `tell` says to the user what happens to them."""

    root: Path
    tell: Callable[[str], None]

    def folder_of(self, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> Path:
        """Return where a quantized checkpoint is, or would be."""
        known_as = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        stem = Path(checkpoint.hub_id or checkpoint.folder.resolve()).name
        return self.root / f"{stem}-4bit-{known_as}"

    def find(self, folder: Path) -> bool:
        """Tell whether an entry is there and sound, and note its use; a damaged one is told of and removed."""
        if not folder.is_dir():
            return False
        if problem := damage(folder):
            self.discard(folder, problem)
            return False
        with suppress(OSError):
            os.utime(folder / MANIFEST)
        return True

    def discard(self, folder: Path, problem: str) -> None:
        """Remove an entry that cannot be used, and say so."""
        self.tell(f"the quantized weights in {str(folder)!r} are damaged ({problem}), so they are made again")
        shutil.rmtree(folder, ignore_errors=True)

    def keep(self, folder: Path, manifest: Mapping[str, Any], write: Callable[[Path], object]) -> None:
        """Write an entry beside its place and move it there when it is whole and on the disk.

        Of two processes that write the same entry the first wins. Where the disk does not take it, that is said and
        nothing is left behind.

        Args:
            folder: Its place.
            manifest: What to say of it, with the keys `model`, `what` and `identity`.
            write: Writes the checkpoint into an empty folder.
        """
        draft = None
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=UNFINISHED, dir=self.root))
            write(draft)
            _seal(draft, manifest)
            num_bytes = _folder_bytes(draft)
            _put(draft, folder)
        except (OSError, RuntimeError, ValueError) as error:  # safetensors and torch translate a full disk variously
            reason = getattr(error, "strerror", None) or first_line(error)
            self.tell(f"the quantized weights cannot be kept in {str(self.root)!r}: {reason}")
        else:
            self.tell(f"quantized; kept for next time in {str(folder)!r} ({bytes_in_words(num_bytes)})")
        finally:
            if draft is not None:
                shutil.rmtree(draft, ignore_errors=True)


def entries(root: Path) -> list[Entry]:
    """Return what is in the cache, by name. Sizes are compared; sums are not, which would read everything."""
    if not root.is_dir():
        return []
    return [_entry(folder) for folder in sorted(root.iterdir()) if folder.is_dir()]


def damage(folder: Path) -> str | None:
    """Return what is wrong with an entry, after reading all of it; None if nothing is."""
    manifest = _read_manifest(folder)
    if manifest is None:
        return f"{MANIFEST} is missing or makes no sense"
    if problem := _wrong_size(folder, manifest):
        return problem
    blocks = [(folder / name, number, s) for name, f in manifest["files"].items() for number, s in enumerate(f["sums"])]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            sums = pool.map(lambda block: _sum_of(block[0], block[1]), blocks)
            wrong = [path.name for (path, _, expected), found in zip(blocks, sums, strict=True) if found != expected]
        except OSError as error:
            return error.strerror or str(error)
    return f"{wrong[0]} has changed" if wrong else None


def _entry(folder: Path) -> Entry:
    manifest = _read_manifest(folder)
    state = "kept" if manifest and not _wrong_size(folder, manifest) else "damaged"
    if folder.name.endswith(UNFINISHED):
        state = "unfinished"
    try:
        used = (folder / MANIFEST).stat().st_mtime
    except OSError:
        used = folder.stat().st_mtime
    known = manifest or {}
    return Entry(folder, known.get("model", ""), known.get("what", ""), _folder_bytes(folder), used, state)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return what an entry says of itself, if its form is right."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sums = [(file["bytes"] + 0, [number + 0 for number in file["sums"]]) for file in manifest["files"].values()]
        is_whole = all(len(found) == -(-num_bytes // BLOCK_BYTES) for num_bytes, found in sums)
        is_ours = is_whole and manifest["format"] == FORMAT and isinstance(manifest["model"] + manifest["what"], str)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if is_ours else None


def _wrong_size(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    for name, file in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != file["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes in place of {file['bytes']:,}"
    return None


def _seal(draft: Path, manifest: Mapping[str, Any]) -> None:
    """Have the files of an entry on the disk, then its manifest with their sums."""
    files = {}
    for path in sorted(draft.iterdir()):
        num_bytes = path.stat().st_size
        sums = [_sum_of(path, number) for number in range(-(-num_bytes // BLOCK_BYTES))]
        files[path.name] = {"bytes": num_bytes, "sums": sums}
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    with (draft / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **manifest, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _put(draft: Path, folder: Path) -> None:
    """Move a whole entry to its place, unless another process has put one there."""
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _sum_of(path: Path, number: int) -> int:
    """Return the CRC-32 of a file's block."""
    total = 0
    with path.open("rb", buffering=0) as file:
        file.seek(number * BLOCK_BYTES)
        for piece in _pieces(file.read, BLOCK_BYTES):
            total = zlib.crc32(piece, total)
    return total


def _pieces(read: Callable[[int], bytes], num_bytes: int) -> Iterator[bytes]:
    """Yield a block's bytes a mebibyte at a time, so that few of them are in memory."""
    while num_bytes and (piece := read(min(num_bytes, 1 << 20))):
        num_bytes -= len(piece)
        yield piece


def _folder_bytes(folder: Path) -> int:
    with suppress(OSError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0  # another process has just removed it
