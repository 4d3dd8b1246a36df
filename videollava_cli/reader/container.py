"""Opening a video file so that nothing but it is read, and so that a hostile one fills no memory.

FFmpeg allocates what the sample tables of an ISO media file (mp4, mov) claim before it looks at the samples, at about
36 bytes a sample: a file of 647 bytes can make it fill 2.9 GB. So we walk its boxes (ISO/IEC 14496-12) first.
"""

import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NoReturn

import av
import av.error
from av.codec import CodecContext
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from videollava_cli.errors import MediaError
from videollava_cli.reader import MediaFile, check_size
from videollava_cli.sampling import Timeline

# Demuxers that read the named file and no other: playlists could open more. Streams without a container are opened by
# the name of their own, once `check_pictures` has seen that they do not fill the memory.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,nut,mxf,ivf"
MAX_PIXELS = 1 << 27  # 134 million: beyond 16K video
OPEN_SECONDS = 30.0
MAX_STREAMS = 100  # that are opened quickly; FFmpeg probes what comes behind them as usual

MAX_SAMPLES = 8_000_000  # of all tracks: 24 hours at 45 frames a second with sound, and 290 MB in FFmpeg
MAX_BOXES = 1_000_000
MAX_DEPTH = 12
MAX_HEADER_BYTES = 64 << 20  # of a compressed header, unpacked
SOUND_SAMPLES_AN_ENTRY = 160  # FFmpeg enters uncompressed sound by pieces of at least so many samples
PARENTS = frozenset((b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"cmov"))
TOP_BOXES = frozenset((b"ftyp", b"mdat", b"moov", b"moof"))
TABLES = frozenset((b"stsz", b"stz2", b"elst", b"stts", b"stco", b"co64", b"stsc", b"trun"))
YUV4MPEG = "yuv4mpegpipe"
# FFmpeg's demuxers by how a stream begins: its first unit, behind a start code.
BEGINNINGS = (
    (YUV4MPEG, re.compile(rb"YUV4MPEG2[ \n]")),
    ("h264", re.compile(rb"\0?\0\0\x01[\x06\x09\x27\x47\x67]")),  # SEI, delimiter, SPS (ITU-T H.264, table 7-1)
    ("hevc", re.compile(rb"\0?\0\0\x01[\x40\x42\x44\x46\x4e]\x01")),  # VPS, SPS, PPS, delimiter, SEI (H.265, 7-1)
    ("mpegvideo", re.compile(rb"\0?\0\0\x01\xb3")),  # sequence header of MPEG-1 and MPEG-2
)
STREAM_CODECS = {"h264": "h264", "hevc": "hevc", "mpegvideo": "mpeg2video"}  # of those that are parsed
PARSED_BYTES = 1 << 20
MAX_PICTURE_BYTES = 64 << 20  # FFmpeg's parsers keep everything until the next picture begins


def stream_format(head: bytes) -> str | None:
    """Return FFmpeg's name for a stream without a container that begins so; None if it is something else."""
    return next((name for name, beginning in BEGINNINGS if beginning.match(head)), None)


def check_pictures(file: BinaryIO, name: str, form: str) -> None:
    """Refuse a stream in which more lies between two pictures than the memory should hold."""
    if form not in STREAM_CODECS:
        return
    file.seek(0)
    parser, num_bytes = CodecContext.create(STREAM_CODECS[form], "r"), 0
    while chunk := file.read(PARSED_BYTES):
        try:
            packets = parser.parse(chunk)
        except av.error.FFmpegError:
            return  # reading it will say what is wrong
        num_bytes = 0 if packets else num_bytes + len(chunk)
        if num_bytes > MAX_PICTURE_BYTES:
            size = MAX_PICTURE_BYTES >> 20
            raise MediaError(f"{name!r} has more than {size} MiB without a new picture: it is damaged or a trap")


def open_container(
    path: Path, name: str, stream_format: str | None = None, *, is_thorough: bool = False
) -> InputContainer:
    """Open a container so that nothing but the named file is read, whatever its name or content says.

    `stream_format` is the demuxer of one without a container. `is_thorough` lets FFmpeg decode the first frames, to
    learn how many frames the order of decoding and that of presentation lie apart. To read packets, or frames by their
    timestamps, it need not, and opens a 1080p clip in a fiftieth of the time. Raises MediaError if the file is no
    container, or none of those that are allowed.
    """
    stream_options = None if is_thorough else [{"skip_frame": "all"}] * MAX_STREAMS
    try:
        return av.open(
            f"file:{path}",
            format=stream_format,
            options={"protocol_whitelist": "file", "format_whitelist": stream_format or FORMATS},
            stream_options=stream_options,  # type: ignore[arg-type]
            metadata_errors="replace",
            timeout=OPEN_SECONDS,
        )
    except (av.error.FFmpegError, ValueError, OSError) as error:
        # PyAV takes no such options for a format that names its streams only when they come, as MPEG does.
        if stream_options and not isinstance(error, av.error.FFmpegError | OSError):
            return open_container(path, name, stream_format, is_thorough=True)
        if isinstance(error, av.error.ExitError):
            raise MediaError(f"{name!r} could not be opened within {OPEN_SECONDS:g} s: is its disk slow?") from error
        if isinstance(error, PermissionError | FileNotFoundError):  # it went away since it was found
            raise MediaError(f"cannot open {name!r}: {error.strerror}") from error
        from videollava_cli.reader.foreign import head_of, no_medium, what_is

        raise MediaError(no_medium(name, what_is(head_of(path)))) from error


def opened(file: MediaFile) -> InputContainer:
    """Return the container that `Reader.find` opened, or open the file again; in both cases nothing of it is read."""
    return file.take_container() or open_container(file.path, file.name, file.stream_format)


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """Return the first of the video streams; no other stream will be read.

    Raises MediaError if there is none, or it cannot be decoded, or has a size beyond the limits.
    """
    stream = next(iter(video_streams(container)), None)
    if stream is None:
        held = " and ".join(sorted({other.type for other in container.streams if other.type} - {"data"}))
        held = "only cover art" if container.streams.video else held and f"only {held}"
        sound = ", and there is nothing to see" if held == "only audio" else ""
        raise MediaError(f"{name!r} holds no video{f', {held}{sound}' if held else ': it may be cut off or damaged'}")
    if not stream.codec_context:
        raise MediaError(f"{name!r} holds a video in a format that cannot be decoded")
    check_size(name, stream.width, stream.height, MAX_PIXELS)
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the stream's own header may lie
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def decoder_of(stream: VideoStream) -> VideoCodecContext:
    """Return the decoder of a stream, the same at each call but for VP8 and VP9 with alpha.

    Only libvpx decodes that: FFmpeg's own decoders, which are the default, leave it out.
    """
    library = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.codec.canonical_name)
    if not library or stream.metadata.get("alpha_mode") != "1":
        return stream.codec_context
    context = VideoCodecContext.create(library, "r")
    assert isinstance(context, VideoCodecContext)
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return context


class Clock:
    """Presentation timestamps to seconds from the moment that players show as 0:00."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self.time_base = float(stream.time_base or 0)
        self.origin = (container.start_time or 0) / av.time_base
        self.rate = float(stream.average_rate or 25)
        self._is_bare = container.format.name in STREAM_CODECS
        if self._is_bare:  # FFmpeg makes timestamps up, and a rate of 25 but for MPEG-1 and MPEG-2
            self.time_base = 0.0
            if container.format.name == "mpegvideo":
                self.rate = float(stream.codec_context.framerate or 25)

    def seconds(self, pts: int | None, index: int) -> float:
        """Return a frame's time; from its index and the frame rate when it carries no timestamp."""
        if pts is None or not self.time_base:
            return index / self.rate
        return round(pts * self.time_base - self.origin, 6)

    def timeline(self, seconds: Sequence[float], last_duration: int | None) -> Timeline:
        """Return when frames of these times are shown, of which the last has a duration in ticks, or none.

        In an mp4 file it may be shown longer: durations are those between frames in decoding order, and sound may go
        on. Other headers count only where there is no duration: those of files that were cut off say too much.
        """
        length, last = (self._container.duration or 0) / av.time_base, seconds[-1] if seconds else 0.0
        if not self._container.format.name.startswith(("mov", "mpeg")):
            length -= self.origin  # FFmpeg takes it from a header, which counts from zero
        end = last + (last_duration or 0) * self.time_base
        if not self._is_bare and (end == last or self._has_whole_table()):
            end = max(end, length)
        return Timeline(seconds, round(end if end > last else last + 1 / self.rate, 6))

    def _has_whole_table(self) -> bool:
        entries = self._stream.index_entries
        is_mov = self._container.format.name.startswith("mov")
        return is_mov and len(entries) > 0 and entries[-1].pos + entries[-1].size <= self._container.size


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Return the video streams that are neither cover art nor mere additions to others."""
    no_video = Disposition.attached_pic | Disposition.dependent
    return [stream for stream in container.streams.video if not stream.disposition & no_video]


def check_boxes(file: BinaryIO, name: str) -> None:
    """Refuse an ISO media file without an index, or whose tables claim more samples than the memory should hold."""
    num_bytes = os.fstat(file.fileno()).st_size
    claims = _Claims(name, num_bytes)
    _walk(file, 0, num_bytes, claims, 0)
    claims.end_track()
    if claims.kinds & {b"ftyp", b"mdat"} and not claims.kinds & {b"moov", b"moof"}:
        raise MediaError(f"{name!r} is cut off or was never finished: it has no index, which stands at the end of many")


@dataclass(slots=True)
class _Claims:
    """What the boxes seen so far claim; `in_table` and the fields below it are of the track being walked."""

    name: str
    num_bytes: int
    num_boxes: int = 0
    num_samples: int = 0
    kinds: set[bytes] = field(default_factory=set)
    in_table: int = 0
    num_edits: int = 0
    num_chunks: int = 0
    chunk_samples: int = 0
    is_plain_sound: bool = False

    def add(self, num_samples: int) -> None:
        self.num_samples += num_samples
        if self.num_samples > min(MAX_SAMPLES, self.num_bytes):  # a sample that holds anything has a byte
            self._refuse()

    def end_track(self) -> None:
        if self.is_plain_sound:
            self.add(self.num_chunks * (1 + self.chunk_samples // SOUND_SAMPLES_AN_ENTRY))
        else:
            self.add(self.in_table)
            if self.in_table * self.num_edits > MAX_SAMPLES:  # every edit may take all of the track
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
            _add_table(claims, kind, file, box_end - body)


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
    file.seek(body + 4)  # a header of old QuickTime files: the unpacked size, then zlib's bytes
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(file.read(min(end - body - 4, MAX_HEADER_BYTES)), MAX_HEADER_BYTES)
    except zlib.error:
        return  # FFmpeg refuses it too
    if unpacker.unconsumed_tail:
        raise MediaError(f"{claims.name!r} has a header of more than {MAX_HEADER_BYTES >> 20} MiB")
    _walk(BytesIO(unpacked), 0, len(unpacked), claims, depth + 1)


def _add_table(claims: _Claims, kind: bytes, file: BinaryIO, size: int) -> None:
    head = file.read(min(16, size))
    if len(head) < 8:
        return
    count = int.from_bytes(head[4:8], "big")
    if kind in (b"stsz", b"stz2") and len(head) >= 12:
        claims.in_table += int.from_bytes(head[8:12], "big")
    elif kind == b"elst":
        claims.num_edits += count
    elif kind == b"stts" and len(head) >= 16:
        # Uncompressed sound has one duration, of one tick, for all samples; FFmpeg then goes by chunks.
        claims.is_plain_sound = count == 1 and int.from_bytes(head[12:16], "big") == 1
    elif kind in (b"stco", b"co64"):
        claims.num_chunks += count
    elif kind == b"stsc":
        file.seek(8 - len(head), os.SEEK_CUR)
        entries = file.read(12 * min(count, MAX_SAMPLES))
        lengths = (length for _, length, _ in struct.iter_unpack(">III", entries[: len(entries) // 12 * 12]))
        claims.chunk_samples = max(claims.chunk_samples, *lengths, 0)
    elif kind == b"trun":  # the samples of a fragment, which need no table at all
        claims.add(count)
