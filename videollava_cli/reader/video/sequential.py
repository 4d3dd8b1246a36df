"""Decode a whole video in order, tolerating damage: slow, and right for whatever file; knows nothing of indices."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import av.container
import av.error
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videollava_cli.reader.video.containers import Clock, opened, video_stream
from videollava_cli.reader.video.excerpts import VideoFile, upright_rgb, use_threads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MADE_UP_FORMATS = ("avi", "mxf")  # have no timestamps: FFmpeg counts packets, and adds the decoder's delay
MAX_DAMAGED = 1000  # packets in a row of frames as many: nothing more will come


@dataclass(slots=True)
class Decoded:
    """What one pass over a file gave: the time of every frame, the wanted ones shrunk, the damage.

    `num_in_header` is the number of frames that an AVI file claims, which may be wrong; 0 for other files.
    """

    seconds: list[float] = field(default_factory=list)
    shrunk: "dict[int, NDArray[np.uint8]]" = field(default_factory=dict)
    num_damaged: int = 0
    num_in_header: int = 0


def promised_seconds(file: VideoFile) -> list[float]:
    """Return the times of the frames that the packets promise; damage and made-up timestamps may belie them."""
    seconds: list[float] = []
    with opened(file.path, file.name) as container:
        stream = video_stream(container, file.name)
        clock = Clock(container, stream)
        try:
            for packet in container.demux(stream):
                file.shrink.check()
                if packet.size and not packet.is_discard:
                    seconds.append(clock.seconds(packet.pts, len(seconds)))
        except av.error.FFmpegError:
            pass  # the rest of the file is damaged: decoding tells how many frames there are
        return _in_order(seconds, container)


def decode_all(file: VideoFile, wanted: set[int]) -> Decoded:
    """Decode all frames, and keep those whose ranks are wanted."""
    decoded = Decoded()
    with file.turn(), opened(file.path, file.name, is_thorough=True) as container:
        stream = video_stream(container, file.name)
        use_threads(stream, file)
        clock = Clock(container, stream)
        decoded.num_in_header = stream.frames if container.format.name == "avi" else 0
        for frame in _frames(container, stream, decoded):
            file.shrink.check()
            index = len(decoded.seconds)
            decoded.seconds.append(clock.seconds(frame.pts, index))
            if index in wanted:
                decoded.shrunk[index] = file.shrink(upright_rgb(frame))
        decoded.seconds = _in_order(decoded.seconds, container)
    return decoded


def _in_order(seconds: list[float], container: av.container.InputContainer) -> list[float]:
    """Return the times of frames in presentation order, where made-up ones may be in another and begin too late."""
    ordered = sorted(seconds)
    is_made_up = container.format.name in MADE_UP_FORMATS or container.start_time is None
    return [round(moment - ordered[0], 6) for moment in ordered] if is_made_up else ordered


def _frames(container: av.container.InputContainer, stream: VideoStream, decoded: Decoded) -> Iterator[VideoFrame]:
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
            if decoded.num_damaged > MAX_DAMAGED + len(decoded.seconds):
                return
