"""Videos to eight frames by presentation order, in the quickest of three ways that gives the right ones.

By the sample table of an mp4 file, by the timestamps of all packets, by decoding everything: each is slower and surer.
"""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videollava_cli.errors import MediaError
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.reader import Reading
from videollava_cli.reader.container import (
    STREAM_CODECS,
    Clock,
    decoder_of,
    open_container,
    opened,
    video_stream,
    video_streams,
)
from videollava_cli.reader.frame_index import (
    SEEKABLE_FORMATS,
    IndexMismatch,
    TableIndex,
    index_from_packets,
    index_from_table,
)
from videollava_cli.reader.gop import Picture, decode_gops, upright_rgb, use_threads
from videollava_cli.sampling import Sampling, Timeline, uniform_indices

SYNTHESIZED_FORMATS = ("avi", "mxf")  # have no timestamps: FFmpeg counts packets, and adds the decoder's delay
MAX_DAMAGED = 1000  # packets in a row of frames as many: nothing more will come


def read_clip(reading: Reading, sampling: Sampling) -> Medium:
    """Read eight frames, each rotated upright and transformed on arrival.

    Frames count in presentation order, and are those that decoding the whole file would give. Raises MediaError if no
    frame can be decoded, or there is none where one is wanted.
    """
    file, notices, details = reading.file, [], []
    with opened(file) as container:
        stream = video_stream(container, file.name)
        index, is_cut_off = index_from_table(stream, container.format.name, os.stat(file.path).st_size)
        if is_cut_off:
            notices.append(f"{file.name!r} is cut off: a part of its {stream.frames} frames is missing")
        if (number := len(video_streams(container))) > 1:
            details.append(f"{file.name!r} holds {number} videos: the first is taken")
        table = index if sampling.is_whole else None  # the table does not have the times of frames
        clip = _by_table(reading, sampling, table, container) if table else _by_packets(reading, sampling, container)
    if table and not clip:
        with opened(file) as container:
            clip = _by_packets(reading, sampling, container)
    clip = clip or _by_full_decode(reading, sampling)
    return replace(clip, notices=(*notices, *clip.notices), details=tuple(details))


def _by_table(reading: Reading, sampling: Sampling, index: TableIndex, container: InputContainer) -> Medium | None:
    indices = uniform_indices(index.num_frames)
    try:
        pictures = decode_gops(reading, index, set(indices), seek=True, fresh=container)
    except IndexMismatch:
        return None
    frames = Timeline(range(index.num_frames), index.num_frames)  # as if they were a second apart
    return _clip(reading, indices, pictures, sampling.notices(reading.file.name, frames))


def _by_packets(reading: Reading, sampling: Sampling, container: InputContainer) -> Medium | None:
    is_seekable = container.format.name in SEEKABLE_FORMATS
    index = index_from_packets(container, video_stream(container, reading.file.name), reading.check)
    if index is None:
        return None
    timeline = index.timeline()
    indices = _chosen(reading, sampling, timeline)
    for seek in (True, False) if is_seekable else (False,):
        try:
            pictures = decode_gops(reading, index, set(indices), seek=seek)
        except IndexMismatch:
            continue
        timed = {index: Picture(timeline.seconds[index], picture.pixels) for index, picture in pictures.items()}
        return _clip(reading, indices, timed, sampling.notices(reading.file.name, timeline))
    return None


def _by_full_decode(reading: Reading, sampling: Sampling) -> Medium:
    name = reading.file.name
    expected = sampling.chosen(_packet_timeline(reading))
    decoded = _decode_all(reading, set(expected))
    if not decoded.seconds:
        raise MediaError(f"no frame of {name!r} can be decoded{_damage(decoded.num_damaged)}")
    indices = _chosen(reading, sampling, decoded.timeline)
    if indices != expected:
        decoded = _decode_all(reading, set(indices))
    seconds = decoded.timeline.seconds
    pictures = {index: Picture(seconds[index], pixels) for index, pixels in decoded.pixels.items()}
    notices = sampling.notices(name, decoded.timeline)
    if reading.file.stream_format in STREAM_CODECS:
        notices.append(f"{name!r} has no timestamps: times are those of {decoded.rate:g} frames a second")
    if decoded.num_damaged:
        notices.append(f"{name!r} is damaged{_damage(decoded.num_damaged)}: the frames come from the rest")
    elif decoded.num_in_header not in (0, len(seconds)):
        notices.append(f"{name!r} holds {len(seconds)} frames where its header says {decoded.num_in_header}")
    return _clip(reading, indices, pictures, notices)


def _damage(num_damaged: int) -> str:
    return f" ({num_damaged} packet{'s' if num_damaged > 1 else ''} could not be decoded)" if num_damaged else ""


def _chosen(reading: Reading, sampling: Sampling, timeline: Timeline) -> list[int]:
    indices = sampling.chosen(timeline)
    if not indices:
        raise MediaError(sampling.error_message(reading.file.name, timeline))
    return indices


def _clip(reading: Reading, indices: list[int], pictures: dict[int, Picture], notices: Iterable[str]) -> Medium:
    pixels = np.stack([pictures[index].pixels for index in indices])
    stamps = tuple(FrameStamp(index, pictures[index].seconds) for index in indices)
    return Medium(reading.file.name, MediaKind.VIDEO, pixels, stamps, tuple(notices))


def _packet_timeline(reading: Reading) -> Timeline:
    """Return when frames are shown by their packets; damage and synthesized timestamps may make it wrong."""
    seconds: list[float] = []
    last = (-math.inf, 0)
    with opened(reading.file) as container:
        stream = video_stream(container, reading.file.name)
        clock = Clock(container, stream)
        try:
            for packet in container.demux(stream):
                reading.check()
                if packet.size and not packet.is_discard:
                    seconds.append(clock.seconds(packet.pts, len(seconds)))
                    last = max(last, (seconds[-1], packet.duration or 0))
        except av.error.FFmpegError:
            pass  # the rest of the file is damaged: decoding shows how many frames there are
        return clock.timeline(_in_order(seconds, container), last[1])


@dataclass(slots=True)
class _Decoded:
    """What one pass over a file gave: the time of every frame as it came, the wanted ones transformed, the damage.

    `num_in_header` is the number of frames that an AVI file claims, which may be wrong; 0 for other files.
    """

    seconds: list[float] = field(default_factory=list)
    timeline: Timeline = field(default_factory=lambda: Timeline((), 0.0))
    pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    num_damaged: int = 0
    num_in_header: int = 0
    rate: float = 0.0


def _decode_all(reading: Reading, wanted: set[int]) -> _Decoded:
    """Decode all frames in order, tolerating damage: slow, and right for whatever file."""
    decoded, file = _Decoded(), reading.file
    with reading.processor(), open_container(file.path, file.name, file.stream_format, is_thorough=True) as container:
        stream = video_stream(container, file.name)
        use_threads(stream, reading)
        clock = Clock(container, stream)
        decoded.rate = clock.rate
        decoded.num_in_header = stream.frames if container.format.name == "avi" else 0
        last_duration = 0
        for frame in _frames(container, stream, decoded):
            reading.check()
            index, last_duration = len(decoded.seconds), frame.duration
            decoded.seconds.append(clock.seconds(frame.pts, index))
            if index in wanted:
                decoded.pixels[index] = reading.transform(upright_rgb(frame, format_name=container.format.name))
        decoded.timeline = clock.timeline(_in_order(decoded.seconds, container), last_duration)
    return decoded


def _in_order(seconds: list[float], container: InputContainer) -> list[float]:
    """Return the times of frames in presentation order, where synthesized ones may be in another and begin too late."""
    ordered = sorted(seconds)
    is_synthesized = container.format.name in SYNTHESIZED_FORMATS or container.start_time is None
    return [round(moment - ordered[0], 6) for moment in ordered] if is_synthesized else ordered


def _frames(container: InputContainer, stream: VideoStream, decoded: _Decoded) -> Iterator[VideoFrame]:
    """Yield the frames in presentation order; damaged packets are counted and passed over."""
    packets, context = container.demux(stream), decoder_of(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from context.decode(packet if packet.size else None)
        except av.error.FFmpegError:
            decoded.num_damaged += 1
            if decoded.num_damaged > MAX_DAMAGED + len(decoded.seconds):
                return
