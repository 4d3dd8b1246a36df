"""Videos to eight frames by presentation order, in the quickest way that gives the right ones; knows no stills."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

import av.container
import numpy as np
from av.video.stream import VideoStream

from videollava_cli.errors import MediaError
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.reader.video.containers import num_videos, opened, video_stream
from videollava_cli.reader.video.excerpts import Picture, VideoFile, decode_excerpts
from videollava_cli.reader.video.sequential import decode_all, promised_seconds
from videollava_cli.reader.video.survey import (
    MOV,
    SEEKABLE_FORMATS,
    IndexSurvey,
    SurpriseError,
    survey_index,
    survey_packets,
)
from videollava_cli.sampling import Sampling, uniform_indices


def read_clip(file: VideoFile, sampling: Sampling) -> Medium:
    """Read eight frames, each rotated upright and shrunk on arrival.

    Frames count in presentation order, and are those that decoding the whole file would give. Three ways are tried,
    each slower and surer: by the index of an mp4 file, by the timestamps of all packets, by decoding everything.

    Args:
        file: The file.
        sampling: Which frames to take.

    Raises:
        MediaError: If no frame can be decoded, or there is none where one is wanted.
        ReadingStopped: If told to stop.
    """
    with opened(file.path, file.name) as container:
        stream = video_stream(container, file.name)
        notices, details = _about_file(container, stream, file)
        survey = survey_index(stream, container.format.name, os.stat(file.path).st_size) if sampling.is_whole else None
        # An index does not have the times of frames.
        clip = _by_index(file, sampling, survey, container) if survey else _by_packets(file, sampling, container)
    if survey and not clip:
        with opened(file.path, file.name) as container:
            clip = _by_packets(file, sampling, container)
    clip = clip or _by_decoding(file, sampling)
    return replace(clip, notices=(*notices, *clip.notices), details=tuple(details))


def _by_index(
    file: VideoFile, sampling: Sampling, survey: IndexSurvey, container: av.container.InputContainer
) -> Medium | None:
    ranks = uniform_indices(survey.num_frames)
    try:
        pictures = decode_excerpts(file, survey, set(ranks), seek=True, fresh=container)
    except SurpriseError:
        return None
    return _clip(file, ranks, pictures, sampling.notices(file.name, range(survey.num_frames)))


def _by_packets(file: VideoFile, sampling: Sampling, container: av.container.InputContainer) -> Medium | None:
    is_seekable = container.format.name in SEEKABLE_FORMATS
    survey = survey_packets(container, video_stream(container, file.name), file.shrink.check)
    if survey is None:
        return None
    seconds = survey.seconds()
    ranks = _chosen(file, sampling, seconds)
    for seek in (True, False) if is_seekable else (False,):
        try:
            pictures = decode_excerpts(file, survey, set(ranks), seek=seek)
        except SurpriseError:
            continue
        timed = {rank: Picture(seconds[rank], picture.shrunk) for rank, picture in pictures.items()}
        return _clip(file, ranks, timed, sampling.notices(file.name, seconds))
    return None


def _by_decoding(file: VideoFile, sampling: Sampling) -> Medium:
    promised = promised_seconds(file)
    wanted = sampling.chosen(promised)
    decoded = decode_all(file, set(wanted))
    if not decoded.seconds:
        raise MediaError(f"no frame of {file.name!r} can be decoded{_damage(decoded.num_damaged)}")
    ranks = _chosen(file, sampling, decoded.seconds)
    if ranks != wanted:
        decoded = decode_all(file, set(ranks))
    pictures = {rank: Picture(decoded.seconds[rank], shrunk) for rank, shrunk in decoded.shrunk.items()}
    notices = sampling.notices(file.name, decoded.seconds)
    if decoded.num_damaged:
        damage = _damage(decoded.num_damaged)
        notices.append(f"{file.name!r} is damaged{damage}: the frames come from the rest")
    elif decoded.num_in_header not in (0, len(decoded.seconds)):
        told = decoded.num_in_header
        notices.append(f"{file.name!r} holds {len(decoded.seconds)} frames where its header says {told}")
    return _clip(file, ranks, pictures, notices)


def _chosen(file: VideoFile, sampling: Sampling, seconds: Sequence[float]) -> list[int]:
    ranks = sampling.chosen(seconds)
    if not ranks:
        raise MediaError(sampling.complaint(file.name, seconds))
    return ranks


def _clip(file: VideoFile, ranks: list[int], pictures: dict[int, Picture], notices: Iterable[str]) -> Medium:
    return Medium(
        name=file.name,
        kind=MediaKind.VIDEO,
        pixels=np.stack([pictures[rank].shrunk for rank in ranks]),
        stamps=tuple(FrameStamp(rank, pictures[rank].seconds) for rank in ranks),
        notices=tuple(notices),
    )


def _about_file(
    container: av.container.InputContainer, stream: VideoStream, file: VideoFile
) -> tuple[list[str], list[str]]:
    """Return what the user should know about the file, and what only who asks for it."""
    notices, details = [], []
    num_bytes = os.stat(file.path).st_size
    if container.format.name == MOV and any(e.pos + e.size > num_bytes for e in stream.index_entries):
        notices.append(f"{file.name!r} is cut off: a part of its {stream.frames} frames is missing")
    if (number := num_videos(container)) > 1:
        details.append(f"{file.name!r} holds {number} videos: the first is taken")
    return notices, details


def _damage(num_damaged: int) -> str:
    return f" ({num_damaged} packet{'s' if num_damaged > 1 else ''} could not be decoded)" if num_damaged else ""
