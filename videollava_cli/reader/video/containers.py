"""Opening a video file with PyAV so that nothing but it is read; knows containers, nothing of which frames to take."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.container
import av.error
import numpy as np
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from videollava_cli.errors import MediaError
from videollava_cli.reader.limits import check_size
from videollava_cli.reader.video.boxes import check_boxes
from videollava_cli.reader.video.packets import START_CODE

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Demuxers that read the named file and no other: playlists could open more, raw streams fill the memory.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,nut,mxf,ivf"
MAX_PIXELS = 1 << 27  # 134 million: beyond 16K video
OPEN_SECONDS = 30.0
MAX_STREAMS = 100  # that are opened quickly; FFmpeg probes what comes behind them as usual


def check_video(path: Path, name: str) -> None:
    """Make sure that a file is a video.

    Raises:
        MediaError: If it is none, or claims a size beyond the limits.
    """
    check_boxes(path, name)
    with opened(path, name) as container:
        video_stream(container, name)


@contextmanager
def opened(path: Path, name: str, *, is_thorough: bool = False) -> Iterator[av.container.InputContainer]:
    """Open a container so that nothing but the named file is read, whatever its name or content says.

    Args:
        path: The file.
        name: What the user calls it, for messages.
        is_thorough: Whether FFmpeg may decode the first frames, to learn how many frames the stream's order of
            decoding and that of presentation lie apart. To read packets, or frames by their timestamps, it need
            not, and opens a 1080p clip in a fiftieth of the time.

    Raises:
        MediaError: If it is no container, or none of those that are allowed.
    """
    try:
        container = _open(path, is_thorough=is_thorough)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise MediaError(f"{name!r} is no video or image that can be read ({_reason(path, error)})") from error
    with container:
        yield container


def _reason(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        if file.read(4).removeprefix(b"\0").startswith(START_CODE):
            return "it is a bare stream: put it into a container, as `ffmpeg -i IN -c copy OUT.mkv` does"
    return getattr(error, "strerror", None) or str(error)


def _open(path: Path, *, is_thorough: bool) -> av.container.InputContainer:
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        return av.open(
            f"file:{path}",
            options=options,
            stream_options=None if is_thorough else [{"skip_frame": "all"}] * MAX_STREAMS,  # type: ignore[list-item]
            metadata_errors="replace",
            timeout=OPEN_SECONDS,
        )
    except ValueError as error:
        # PyAV takes no such options for a format that names its streams only when they come, as MPEG does.
        if is_thorough or isinstance(error, av.error.FFmpegError):
            raise
        return _open(path, is_thorough=True)


def video_stream(container: av.container.InputContainer, name: str) -> VideoStream:
    """Return the first video stream that is no cover art, nor mere additions to another; the others are not read.

    Raises:
        MediaError: If there is none, or it cannot be decoded, or has a size beyond the limits.
    """
    videos = _videos(container)
    if not videos:
        raise MediaError(f"{name!r} holds no video{_held_instead(container)}")
    if not videos[0].codec_context:
        raise MediaError(f"{name!r} holds a video in a format that cannot be decoded")
    stream = videos[0]
    check_size(name, stream.width, stream.height, MAX_PIXELS)
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the stream's own header may lie
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def num_videos(container: av.container.InputContainer) -> int:
    """Return the number of video streams, cover art and additions to other streams aside."""
    return len(_videos(container))


class Clock:
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

    def all_seconds(self, pts: "NDArray[np.int64]") -> list[float]:
        """Return the times of many frames from their timestamps, (N,)."""
        times = np.round(pts * self.time_base - self.origin, 6) if self.time_base else np.arange(len(pts)) / self.rate
        seconds: list[float] = times.tolist()
        return seconds


def _videos(container: av.container.InputContainer) -> list[VideoStream]:
    no_video = Disposition.attached_pic | Disposition.dependent
    return [stream for stream in container.streams.video if not stream.disposition & no_video]


def _held_instead(container: av.container.InputContainer) -> str:
    if container.streams.video:
        return ", only cover art"
    held = sorted({stream.type for stream in container.streams if stream.type} - {"data"})
    return f", only {' and '.join(held)}" if held else ": it may be cut off or damaged"
