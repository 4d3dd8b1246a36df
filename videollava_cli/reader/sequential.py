"""Decode a whole video in order, tolerating damage: slow, and right for whatever file."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videollava_cli.reader.container import Clock, open_container, opened, video_stream
from videollava_cli.reader.gop import upright_rgb, use_threads
from videollava_cli.reader.media_file import Reading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SYNTHESIZED_FORMATS = ("avi", "mxf")  # have no timestamps: FFmpeg counts packets, and adds the decoder's delay
MAX_DAMAGED = 1000  # packets in a row of frames as many: nothing more will come


@dataclass(slots=True)
class Decoded:
    """What one pass over a file gave: the time of every frame, the wanted ones transformed, the damage.

    `num_in_header` is the number of frames that an AVI file claims, which may be wrong; 0 for other files.
    """

    seconds: list[float] = field(default_factory=list)
    pixels: "dict[int, NDArray[np.uint8]]" = field(default_factory=dict)
    num_damaged: int = 0
    num_in_header: int = 0


def packet_seconds(reading: Reading) -> list[float]:
    """Return the times of the frames by their packets; damage and synthesized timestamps may make them wrong."""
    seconds: list[float] = []
    with opened(reading.file) as container:
        stream = video_stream(container, reading.file.name)
        clock = Clock(container, stream)
        try:
            for packet in container.demux(stream):
                reading.check()
                if packet.size and not packet.is_discard:
                    seconds.append(clock.seconds(packet.pts, len(seconds)))
        except av.error.FFmpegError:
            pass  # the rest of the file is damaged: decoding shows how many frames there are
        return _in_order(seconds, container)


def decode_all(reading: Reading, wanted: set[int]) -> Decoded:
    """Decode all frames, and keep those whose display indices are wanted."""
    decoded, file = Decoded(), reading.file
    with reading.processor(), open_container(file.path, file.name, is_thorough=True) as container:
        stream = video_stream(container, file.name)
        use_threads(stream, reading)
        clock = Clock(container, stream)
        decoded.num_in_header = stream.frames if container.format.name == "avi" else 0
        for frame in _frames(container, stream, decoded):
            reading.check()
            index = len(decoded.seconds)
            decoded.seconds.append(clock.seconds(frame.pts, index))
            if index in wanted:
                decoded.pixels[index] = reading.transform(upright_rgb(frame))
        decoded.seconds = _in_order(decoded.seconds, container)
    return decoded


def _in_order(seconds: list[float], container: InputContainer) -> list[float]:
    """Return the times of frames in presentation order, where synthesized ones may be in another and begin too late."""
    ordered = sorted(seconds)
    is_synthesized = container.format.name in SYNTHESIZED_FORMATS or container.start_time is None
    return [round(moment - ordered[0], 6) for moment in ordered] if is_synthesized else ordered


def _frames(container: InputContainer, stream: VideoStream, decoded: Decoded) -> Iterator[VideoFrame]:
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
