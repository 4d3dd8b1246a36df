"""Videos through PyAV: files to eight frames by presentation order; knows nothing of stills or of the model."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.container
import av.error
import av.logging
import numpy as np
from av.stream import Disposition
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from videollava_cli.errors import MediaError
from videollava_cli.media import NUM_FRAMES, Clip, FrameStamp
from videollava_cli.reader.limits import check_size
from videollava_cli.reader.shrink import Shrink
from videollava_cli.sampling import Window, repetition_notice, uniform_indices

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Demuxers that read the named file and no other: playlists could open more, raw streams fill the memory.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,nut,mxf,ivf"
# Demuxers whose timestamps are the file's own and which land on the key frame that is asked for.
SEEKABLE_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
MAX_PIXELS = 1 << 27  # 134 million: beyond 16K video
OPEN_SECONDS = 30.0


def probe_video(path: Path, name: str) -> None:
    """Make sure that a file is a video.

    Raises:
        MediaError: If it is none, or has a size beyond the limits.
    """
    with _opened(path, name) as container:
        stream = _video_stream(container, name)
        check_size(name, stream.width, stream.height, MAX_PIXELS)


def read_clip(path: Path, name: str, window: Window, shrink: Shrink) -> Clip:
    """Read eight frames, sampled uniformly from the window, each rotated upright and shrunk on arrival.

    Frames count in presentation order. The packets are counted first, since many headers do not know the
    number of frames. As long as decoding gives the frames that the packets promise, only the part of the file
    up to the last wanted frame is decoded; otherwise all of it, and where that gives another number of frames,
    that one counts and the frames are read again.

    Args:
        path: The file.
        name: What the user calls it, for messages.
        window: The part to sample from.
        shrink: From uint8 RGB, (H, W, 3), to uint8 RGB, (S, S, 3).

    Raises:
        MediaError: If no frame can be decoded, or none lies in the window.
    """
    promise = _promised(path, name, shrink)
    wanted = _chosen(promise.seconds, window)
    decoded = _decode_part(path, name, promise, wanted, shrink)
    if decoded is None:
        decoded = _decode(path, name, set(wanted), shrink)
        if len(decoded.seconds) != len(promise.seconds) or _chosen(decoded.seconds, window) != wanted:
            wanted = _chosen(decoded.seconds, window)
            decoded = _decode(path, name, set(wanted), shrink)
    if not decoded.seconds:
        raise MediaError(f"no frame of {name!r} can be decoded{_damage(decoded.num_damaged)}")
    if not wanted:
        last = decoded.seconds[-1]
        raise MediaError(f"{name!r} has no frames between the times asked for: its last frame is at {last:.2f} s")
    return Clip(
        name=name,
        frames=np.stack([decoded.shrunk[index] for index in wanted]),
        stamps=tuple(FrameStamp(index, decoded.seconds[index]) for index in wanted),
        notices=tuple(_notices(name, decoded, window)),
    )


@dataclass(frozen=True, slots=True)
class _Promise:
    """What the packets say about the frames, before one is decoded.

    `seconds` has the time of every frame in presentation order, `pts` its timestamp; `pts` is empty unless every
    packet has one of its own. `key_pts` has those at which decoding can start, in a container that can seek there.
    """

    seconds: list[float]
    pts: list[int] = field(default_factory=list)
    key_pts: list[int] = field(default_factory=list)

    def index_of(self, pts: int | None) -> int | None:
        """Return the index of the frame with this timestamp; None if no packet promised one."""
        index = len(self.pts) if pts is None else bisect_left(self.pts, pts)
        return index if index < len(self.pts) and self.pts[index] == pts else None


@dataclass(slots=True)
class _Decoded:
    """What one pass over a file gave: the time of every frame, the wanted ones shrunk, the damage."""

    seconds: list[float] = field(default_factory=list)
    shrunk: dict[int, "NDArray[np.uint8]"] = field(default_factory=dict)
    num_damaged: int = 0


def _decode(path: Path, name: str, wanted: set[int], shrink: Shrink) -> _Decoded:
    decoded = _Decoded()
    with _opened(path, name) as container:
        stream = _video_stream(container, name)
        stream.thread_type = "AUTO"
        clock = _Clock(container, stream)
        for frame in _frames(container, stream, decoded):
            shrink.check()
            index = len(decoded.seconds)
            decoded.seconds.append(clock.seconds(frame.pts, index))
            if index in wanted:
                decoded.shrunk[index] = shrink(_upright_rgb(frame))
    return decoded


def _decode_part(path: Path, name: str, promise: _Promise, wanted: list[int], shrink: Shrink) -> _Decoded | None:
    """Decode from a key frame before the first wanted frame to the last one.

    Returns:
        None at the first surprise: a frame that is damaged, or not the next one that the packets promised.
    """
    if not promise.pts or not wanted:
        return None
    decoded = _Decoded(seconds=promise.seconds)
    with _opened(path, name) as container:
        stream = _video_stream(container, name)
        stream.thread_type = "AUTO"
        anchored = not _sought(container, stream, promise, wanted[0])
        next_ones = range(1) if anchored else range(wanted[0] + 1)
        for frame in _frames(container, stream, decoded):
            shrink.check()
            index = promise.index_of(frame.pts)
            if index is None or index not in next_ones or decoded.num_damaged or frame.is_corrupt:
                return None
            # Intra-refresh streams call P pictures key frames; what comes next may build on frames never decoded.
            anchored = anchored or (frame.key_frame and frame.pict_type == PictureType.I)
            if index in wanted:
                if not anchored:
                    return None
                decoded.shrunk[index] = shrink(_upright_rgb(frame))
            if index == wanted[-1]:
                return decoded
            next_ones = range(index + 1, index + 2)
    return None


def _sought(container: av.container.InputContainer, stream: VideoStream, promise: _Promise, index: int) -> bool:
    """Seek to the last key frame that is shown no later than a frame; return whether the container was moved."""
    key = bisect_right(promise.key_pts, promise.pts[index]) - 1
    if key < 1:  # none, or the one where decoding starts anyway
        return False
    try:
        container.seek(promise.key_pts[key], stream=stream)
    except av.error.FFmpegError:
        return False
    return True


def _frames(container: av.container.InputContainer, stream: VideoStream, decoded: _Decoded) -> Iterator[VideoFrame]:
    """Yield the frames in presentation order; damaged packets are counted and passed over."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except av.error.FFmpegError:
            decoded.num_damaged += 1
            if decoded.num_damaged > 1000 + len(decoded.seconds):
                return


def _promised(path: Path, name: str, shrink: Shrink) -> _Promise:
    """Return what a file's shown packets say about its frames."""
    with _opened(path, name) as container:
        stream = _video_stream(container, name)
        clock = _Clock(container, stream)
        stamps: list[int | None] = []
        keys: list[int] = []
        try:
            for packet in container.demux(stream):
                shrink.check()
                if packet.size and not packet.is_discard:
                    stamps.append(packet.pts)
                    if packet.is_keyframe and packet.pts is not None:
                        keys.append(packet.pts)
        except av.error.FFmpegError:
            pass  # the rest of the file is damaged: decoding tells how many frames there are
        known = sorted(stamp for stamp in stamps if stamp is not None)
        if len(known) < len(stamps):
            return _Promise([clock.seconds(None, index) for index in range(len(stamps))])
        seconds = [clock.seconds(stamp, index) for index, stamp in enumerate(known)]
        if len(set(known)) < len(known):
            return _Promise(seconds)
        return _Promise(seconds, known, sorted(keys) if container.format.name in SEEKABLE_FORMATS else [])


class _Clock:
    """Presentation timestamps to seconds from the moment that players show as 0:00."""

    def __init__(self, container: av.container.InputContainer, stream: VideoStream) -> None:
        self.time_base = float(stream.time_base or 0)
        self.origin = (container.start_time or 0) / av.time_base
        self.rate = float(stream.average_rate or 25)

    def seconds(self, pts: int | None, index: int) -> float:
        """Return a frame's time; from its index and the frame rate when it carries no timestamp."""
        if pts is None or not self.time_base:
            return index / self.rate
        return round(pts * self.time_base - self.origin, 6)


def _chosen(seconds: list[float], window: Window) -> list[int]:
    positions = window.positions(seconds)
    return [positions[i] for i in uniform_indices(len(positions))] if positions else []


def _upright_rgb(frame: VideoFrame) -> "NDArray[np.uint8]":
    """Return a frame as uint8 RGB, (H, W, 3), turned as its display matrix says (multiples of 90 degrees)."""
    rgb: NDArray[np.uint8] = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(rgb, (round(frame.rotation / 90)) % 4)) if frame.rotation else rgb


def _video_stream(container: av.container.InputContainer, name: str) -> VideoStream:
    """Return the first video stream that is no cover art, nor mere additions to another stream."""
    no_video = Disposition.attached_pic | Disposition.dependent
    videos = [s for s in container.streams.video if not s.disposition & no_video]
    if videos and not videos[0].codec_context:
        raise MediaError(f"{name!r} holds a video in a format that cannot be decoded")
    if videos:
        return videos[0]
    if container.streams.video:
        raise MediaError(f"{name!r} holds no video, only cover art")
    held = sorted({stream.type for stream in container.streams if stream.type} - {"data"})
    only = f", only {' and '.join(held)}" if held else ": it may be cut off or damaged"
    raise MediaError(f"{name!r} holds no video{only}")


@contextmanager
def _opened(path: Path, name: str) -> Iterator[av.container.InputContainer]:
    """Open a container so that nothing but the named file is read, whatever its name or content says."""
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="replace", timeout=OPEN_SECONDS)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{name!r} is no video or image that can be read ({reason})") from error
    with container:
        yield container


def _notices(name: str, decoded: _Decoded, window: Window) -> Iterator[str]:
    num_frames = len(window.positions(decoded.seconds))
    if num_frames < NUM_FRAMES:
        yield repetition_notice(name, num_frames)
    if decoded.num_damaged:
        yield f"{name!r} is damaged{_damage(decoded.num_damaged)}: the frames come from the rest"


def _damage(num_damaged: int) -> str:
    return f" ({num_damaged} packet{'s' if num_damaged > 1 else ''} could not be decoded)" if num_damaged else ""
