"""ISO media files (mp4, mov) that claim more than they hold, or lack their index, refused unopened; knows boxes only.

FFmpeg allocates what a file's sample tables claim before it looks at the samples, at about 36 bytes a sample: a file
of 647 bytes can make it fill 2.9 GB. The boxes are those of ISO/IEC 14496-12.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NoReturn

from videollava_cli.errors import MediaError

MAX_SAMPLES = 8_000_000  # of all tracks: 24 hours at 45 frames a second with sound, and 290 MB in FFmpeg
MAX_BOXES = 1_000_000
MAX_DEPTH = 12
MAX_HEADER_BYTES = 64 << 20  # of a compressed header, unpacked
SOUND_SAMPLES_AN_ENTRY = 160  # FFmpeg enters uncompressed sound by pieces of at least so many samples
PARENTS = frozenset((b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"cmov"))
TOP_BOXES = frozenset((b"ftyp", b"mdat", b"moov", b"moof"))
READ_BYTES = 64  # of a table: its head


def check_boxes(path: Path, name: str) -> None:
    """Make sure that an ISO media file has an index, whose tables claim no more samples than the memory should hold.

    Raises:
        MediaError: If it has none, or they claim more.
    """
    with path.open("rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        claims = _Claims(name, num_bytes)
        _walk(file, 0, num_bytes, claims, 0)
        claims.end_track()
    if claims.kinds & {b"ftyp", b"mdat"} and not claims.kinds & {b"moov", b"moof"}:
        raise MediaError(f"{name!r} is cut off or was never finished: it has no index, which stands at the end of many")


@dataclass(slots=True)
class _Claims:
    """What the boxes seen so far claim; the fields below `num_samples` are those of the track being walked."""

    name: str
    num_bytes: int
    num_boxes: int = 0
    num_samples: int = 0
    in_table: int = 0
    num_edits: int = 0
    num_chunks: int = 0
    chunk_samples: int = 0
    is_plain_sound: bool = False
    kinds: set[bytes] = field(default_factory=set)

    def add(self, num_samples: int) -> None:
        """Count samples, and stop where there are too many; a sample that holds anything has a byte."""
        self.num_samples += num_samples
        if self.num_samples > min(MAX_SAMPLES, self.num_bytes):
            self._refuse()

    def end_track(self) -> None:
        """Add up the track that was walked: every edit may take all of it."""
        if self.is_plain_sound:
            self.add(self.num_chunks * (1 + self.chunk_samples // SOUND_SAMPLES_AN_ENTRY))
        else:
            self.add(self.in_table)
            if self.in_table * self.num_edits > MAX_SAMPLES:
                self._refuse()
        self.in_table = self.num_edits = self.num_chunks = self.chunk_samples = 0
        self.is_plain_sound = False

    def _refuse(self) -> NoReturn:
        raise MediaError(f"{self.name!r} claims more frames than it can hold: it is damaged or a trap")


def _walk(file: BinaryIO, start: int, end: int, claims: _Claims, depth: int) -> None:
    for kind, body, box_end in _boxes(file, start, end, claims):
        if depth == 0 and kind in TOP_BOXES:
            claims.kinds.add(kind)
        if kind in PARENTS and depth < MAX_DEPTH:
            if kind == b"trak":
                claims.end_track()
            _walk(file, body, box_end, claims, depth + 1)
        elif kind == b"cmvd":
            _walk_compressed(file, body, box_end, claims, depth)
        elif kind in TABLES:
            file.seek(body)
            TABLES[kind](claims, file.read(min(READ_BYTES, box_end - body)), file)


def _boxes(file: BinaryIO, start: int, end: int, claims: _Claims) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the body's start and the end of each box between two offsets."""
    while start + 8 <= end:
        file.seek(start)
        head = file.read(16)
        size, kind = struct.unpack_from(">I4s", head)
        body = start + 8
        if size == 1 and len(head) == 16:
            size, body = struct.unpack_from(">Q", head, 8)[0], start + 16
        box_end = end if size == 0 else min(start + size, end)
        if box_end < body:
            return  # no box any more: FFmpeg will say what is wrong
        claims.num_boxes += 1
        if claims.num_boxes > MAX_BOXES:
            raise MediaError(f"{claims.name!r} has more than {MAX_BOXES:,} boxes: it is damaged or a trap")
        yield kind, body, box_end
        start = box_end


def _walk_compressed(file: BinaryIO, body: int, end: int, claims: _Claims, depth: int) -> None:
    """Walk the header of an old QuickTime file that is compressed with zlib, as FFmpeg would unpack it."""
    file.seek(body + 4)  # behind the unpacked size
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(file.read(min(end - body - 4, MAX_HEADER_BYTES)), MAX_HEADER_BYTES)
    except zlib.error:
        return  # FFmpeg refuses it too
    if unpacker.unconsumed_tail:
        raise MediaError(f"{claims.name!r} has a header of more than {MAX_HEADER_BYTES >> 20} MiB")
    _walk(BytesIO(unpacked), 0, len(unpacked), claims, depth + 1)


def _sample_sizes(claims: _Claims, head: bytes, file: BinaryIO) -> None:
    if len(head) >= 12:
        claims.in_table += int.from_bytes(head[8:12], "big")


def _edits(claims: _Claims, head: bytes, file: BinaryIO) -> None:
    if len(head) >= 8:
        claims.num_edits += int.from_bytes(head[4:8], "big")


def _durations(claims: _Claims, head: bytes, file: BinaryIO) -> None:
    """Uncompressed sound has one duration, of one tick, for all samples; FFmpeg then goes by chunks."""
    if len(head) >= 16:
        count, _, duration = struct.unpack_from(">III", head, 4)
        claims.is_plain_sound = count == 1 and duration == 1


def _chunks(claims: _Claims, head: bytes, file: BinaryIO) -> None:
    if len(head) >= 8:
        claims.num_chunks += int.from_bytes(head[4:8], "big")


def _chunk_lengths(claims: _Claims, head: bytes, file: BinaryIO) -> None:
    if len(head) < 8:
        return
    count = min(int.from_bytes(head[4:8], "big"), MAX_SAMPLES)
    file.seek(-len(head) + 8, os.SEEK_CUR)
    entries = file.read(12 * count)
    lengths = [length for _, length, _ in struct.iter_unpack(">III", entries[: len(entries) // 12 * 12])]
    claims.chunk_samples = max([claims.chunk_samples, *lengths])


def _run(claims: _Claims, head: bytes, file: BinaryIO) -> None:
    """Count the samples of a fragment, which need no table at all."""
    if len(head) >= 8:
        claims.add(int.from_bytes(head[4:8], "big"))


TABLES = {
    b"stsz": _sample_sizes,
    b"stz2": _sample_sizes,
    b"elst": _edits,
    b"stts": _durations,
    b"stco": _chunks,
    b"co64": _chunks,
    b"stsc": _chunk_lengths,
    b"trun": _run,
}
