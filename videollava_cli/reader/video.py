"""Videos to eight frames by presentation order, in the quickest of three ways that gives the right ones.

By the sample table of an mp4 file, by the timestamps of all packets, by decoding everything: each is slower and surer.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from av.container import InputContainer

from videollava_cli.errors import MediaError
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.reader.container import opened, video_stream, video_streams
from videollava_cli.reader.frame_index import (
    SEEKABLE_FORMATS,
    IndexMismatch,
    TableIndex,
    index_from_packets,
    index_from_table,
)
from videollava_cli.reader.gop import Picture, decode_gops
from videollava_cli.reader.media_file import Reading
from videollava_cli.reader.sequential import decode_all, packet_seconds
from videollava_cli.sampling import Sampling, uniform_indices


def read_clip(reading: Reading, sampling: Sampling) -> Medium:
    """Read eight frames, each rotated upright and transformed on arrival.

    Frames count in presentation order, and are those that decoding the whole file would give.

    Raises:
        MediaError: If no frame can be decoded, or there is none where one is wanted.
        ReadingStopped: If the reader was stopped.
    """
    file, notices, details = reading.file, [], []
    with opened(file) as container:
        stream = video_stream(container, file.name)
        index, is_cut_off = index_from_table(stream, container.format.name, os.stat(file.path).st_size)
        if is_cut_off:
            notices.append(f"{file.name!r} is cut off: a part of its {stream.frames} frames is missing")
        if (number := len(video_streams(container))) > 1:
            details.append(f"{file.name!r} holds {number} videos: the first is taken")
        by_table = index if sampling.is_whole else None  # the table does not have the times of frames
        if by_table:
            clip = _by_table(reading, sampling, by_table, container)
        else:
            clip = _by_packets(reading, sampling, container)
    if by_table and not clip:
        with opened(file) as container:
            clip = _by_packets(reading, sampling, container)
    clip = clip or _by_decoding(reading, sampling)
    return replace(clip, notices=(*notices, *clip.notices), details=tuple(details))


def _by_table(reading: Reading, sampling: Sampling, index: TableIndex, container: InputContainer) -> Medium | None:
    indices = uniform_indices(index.num_frames)
    try:
        pictures = decode_gops(reading, index, set(indices), seek=True, fresh=container)
    except IndexMismatch:
        return None
    return _clip(reading, indices, pictures, sampling.notices(reading.file.name, range(index.num_frames)))


def _by_packets(reading: Reading, sampling: Sampling, container: InputContainer) -> Medium | None:
    is_seekable = container.format.name in SEEKABLE_FORMATS
    index = index_from_packets(container, video_stream(container, reading.file.name), reading.check)
    if index is None:
        return None
    seconds = index.seconds()
    indices = _chosen(reading, sampling, seconds)
    for seek in (True, False) if is_seekable else (False,):
        try:
            pictures = decode_gops(reading, index, set(indices), seek=seek)
        except IndexMismatch:
            continue
        timed = {index: Picture(seconds[index], picture.pixels) for index, picture in pictures.items()}
        return _clip(reading, indices, timed, sampling.notices(reading.file.name, seconds))
    return None


def _by_decoding(reading: Reading, sampling: Sampling) -> Medium:
    name = reading.file.name
    expected = sampling.chosen(packet_seconds(reading))
    decoded = decode_all(reading, set(expected))
    if not decoded.seconds:
        raise MediaError(f"no frame of {name!r} can be decoded{_damage(decoded.num_damaged)}")
    indices = _chosen(reading, sampling, decoded.seconds)
    if indices != expected:
        decoded = decode_all(reading, set(indices))
    pictures = {index: Picture(decoded.seconds[index], pixels) for index, pixels in decoded.pixels.items()}
    notices = sampling.notices(name, decoded.seconds)
    if decoded.num_damaged:
        notices.append(f"{name!r} is damaged{_damage(decoded.num_damaged)}: the frames come from the rest")
    elif decoded.num_in_header not in (0, len(decoded.seconds)):
        notices.append(f"{name!r} holds {len(decoded.seconds)} frames where its header says {decoded.num_in_header}")
    return _clip(reading, indices, pictures, notices)


def _chosen(reading: Reading, sampling: Sampling, seconds: Sequence[float]) -> list[int]:
    indices = sampling.chosen(seconds)
    if not indices:
        raise MediaError(sampling.error_message(reading.file.name, seconds))
    return indices


def _clip(reading: Reading, indices: list[int], pictures: dict[int, Picture], notices: Iterable[str]) -> Medium:
    return Medium(
        name=reading.file.name,
        kind=MediaKind.VIDEO,
        pixels=np.stack([pictures[index].pixels for index in indices]),
        stamps=tuple(FrameStamp(index, pictures[index].seconds) for index in indices),
        notices=tuple(notices),
    )


def _damage(num_damaged: int) -> str:
    return f" ({num_damaged} packet{'s' if num_damaged > 1 else ''} could not be decoded)" if num_damaged else ""
