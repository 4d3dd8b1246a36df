"""What a container tells of its frames before one is decoded: how many, when, and where decoding can start.

A frame's rank is its place in presentation order, from 0. Knows packets and indices, nothing of pixels.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av.container
import av.error
import numpy as np
from av.video.stream import VideoStream

from videollava_cli.reader.video.containers import Clock
from videollava_cli.reader.video.packets import is_shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from videollava_cli.reader.video.packets import VideoPacket

MOV = "mov,mp4,m4a,3gp,3g2,mj2"
# Demuxers whose timestamps are the file's own. Those of avi, mpeg and the rest are made up, wrongly with B-frames.
TIMED_FORMATS = (MOV, "matroska,webm", "mpegts", "flv", "asf", "nut")
SEEKABLE_FORMATS = (MOV, "matroska,webm")
# Codecs whose every packet is a key packet: in whatever container, the frames are in the order of the packets.
INTRA_CODECS = {"mjpeg", "prores", "dnxhd", "ffv1", "png"}
# Codecs of which every packet gives one frame, and every key packet lets decoding start; VP8 apart, see below.
PLAIN_CODECS = INTRA_CODECS | {"h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4"}
PLAIN_CODECS |= {"h263", "flv1", "wmv1", "wmv2", "vc1"}
MAX_HELD_BACK = 1 << 24  # pixels of a picture: twenty packets of 8K take as much memory as a decoded picture
REORDER_PACKETS = 20  # no codec shows a frame before more than 16 that stand in front of it


class SurpriseError(Exception):
    """The file is not as its tables or packets promised: a slower way must read it."""


@dataclass(frozen=True, slots=True)
class Start:
    """A key packet, at which decoding can start: its timestamp, where to seek for it, the first rank behind it.

    `seek_to` is None for the first packet, which needs no seeking.
    """

    timestamp: int
    seek_to: int | None
    rank: int


class IndexSurvey:
    """A survey from the index of an mp4 or mov file, which has the decoding timestamps: no packet is read for it."""

    is_in_order = False  # unknown, until packets are read

    def __init__(self, timestamps: "NDArray[np.int64]", keys: list[int], *, num_held_back: int) -> None:
        self.num_frames = len(timestamps)
        self._num_held_back = num_held_back
        self._timestamps, self._keys = timestamps, keys

    def starts(self, ranks: Iterable[int]) -> dict[Start, list[int]]:
        """Return where to start for which of some ranks, in ascending order."""
        groups: dict[int, list[int]] = {}
        for rank in ranks:
            groups.setdefault(bisect_right(self._keys, rank) - 1, []).append(rank)
        return {self._start(number): group for number, group in groups.items()}

    def ranked(self, packets: "Iterator[VideoPacket]", start: Start) -> "Iterator[tuple[VideoPacket, int | None]]":
        """Yield the packets from a start on, each with the rank of its frame.

        The index has no presentation timestamps, so a packet is held back until those of the next ones are known.

        Raises:
            SurpriseError: If a packet is not where the index has it, or belongs in front of its key packet.
        """
        first = next((packet for packet in packets if packet.dts is None or packet.dts >= start.timestamp), None)
        if first is None or first.dts != start.timestamp or first.pts is None:
            raise SurpriseError("the index led elsewhere")
        ahead, seen, key_pts = deque((first,)), [first.pts], first.pts
        for packet in packets:
            if packet.pts is None or packet.pts < key_pts:
                raise SurpriseError("a packet without its time, or to be shown before its key frame")
            ahead.append(packet)
            insort(seen, packet.pts)
            if len(ahead) > self._num_held_back:
                yield _with_rank(ahead.popleft(), seen, start.rank)
        while ahead:
            yield _with_rank(ahead.popleft(), seen, start.rank)

    def _start(self, number: int) -> Start:
        key = self._keys[number]
        timestamp = int(self._timestamps[key])
        if number == 0:
            return Start(timestamp, None, key)
        # FFmpeg looks for the last key packet whose presentation time is not later: ask shortly before the next one.
        behind = self._keys[number + 1] if number + 1 < len(self._keys) else None
        seek_to = int(self._timestamps[-1]) if behind is None else int(self._timestamps[behind]) - 1
        return Start(timestamp, seek_to, key)


class PacketSurvey:
    """A survey from one pass over all packets, none of which was decoded.

    `is_in_order` tells whether the frames are shown in the order of their packets, if the timestamps are true.

    Args:
        pts: The timestamps of all frames, int64, (N,), in the order of their packets.
        keys: The timestamps of the key packets, each with its place among the packets.
        clock: What turns timestamps to seconds.
    """

    def __init__(self, pts: "NDArray[np.int64]", keys: Sequence[tuple[int, int]], clock: Clock) -> None:
        self.num_frames = len(pts)
        self._places = np.argsort(pts)
        self.is_in_order = bool((np.diff(self._places) > 0).all())
        self._pts = pts[self._places]
        self._keys = sorted(keys)
        self._clock = clock

    def seconds(self) -> list[float]:
        """Return the time of every frame, ascending."""
        return self._clock.all_seconds(self._pts)

    def starts(self, ranks: Iterable[int]) -> dict[Start, list[int]]:
        """Return where to start for which of some ranks, in ascending order.

        Frames whose packets stand behind the next start, as those that are shown before its key frame do, take
        what would start there along.
        """
        groups: dict[Start, list[int]] = {}
        last_start, last_place = None, -1
        for rank in sorted(ranks):
            number = max(bisect_right(self._keys, (int(self._pts[rank]), self.num_frames)) - 1, 0)
            timestamp, place = self._keys[number]
            if last_start is None or place > last_place:
                last_start = Start(timestamp, None if place == 0 else timestamp, self._rank(timestamp))
            groups.setdefault(last_start, []).append(rank)
            last_place = max(last_place, int(self._places[rank]), place)
        return groups

    def ranked(self, packets: "Iterator[VideoPacket]", start: Start) -> "Iterator[tuple[VideoPacket, int | None]]":
        """Yield the packets from a start on, each with the rank of its frame, None if it is not to be shown.

        Raises:
            SurpriseError: If the start does not come.
        """
        is_found = False
        for packet in packets:
            is_found = is_found or packet.pts == start.timestamp
            if is_found:
                yield packet, self._shown_rank(packet)
            elif packet.is_keyframe and packet.pts is not None and packet.pts > start.timestamp:
                break
        if not is_found:
            raise SurpriseError("a key packet is not where it was")

    def _rank(self, timestamp: int) -> int:
        return int(np.searchsorted(self._pts, timestamp))

    def _shown_rank(self, packet: "VideoPacket") -> int | None:
        if packet.pts is None or packet.is_discard:
            return None
        rank = self._rank(packet.pts)
        return rank if rank < self.num_frames and self._pts[rank] == packet.pts else None


Survey = IndexSurvey | PacketSurvey


def survey_index(stream: VideoStream, format_name: str, num_bytes: int) -> IndexSurvey | None:
    """Return what a file's index tells; None where it does not tell all, as with edits, fragments and cut-off files."""
    codec = stream.codec_context.codec.canonical_name
    is_intra = codec in INTRA_CODECS
    if codec not in PLAIN_CODECS - {"vp8"} or not (format_name == MOV or (format_name == "avi" and is_intra)):
        return None
    if stream.width * stream.height > MAX_HELD_BACK:
        return None
    timestamps, keys = array("q"), []
    for number, entry in enumerate(stream.index_entries):
        if entry.is_discard or entry.size == 0 or entry.pos + entry.size > num_bytes:
            return None
        timestamps.append(entry.timestamp)
        if entry.is_keyframe:
            keys.append(number)
    decoding_order = np.frombuffer(timestamps, np.int64)
    is_whole = len(timestamps) == stream.frames and keys[:1] == [0] and bool((np.diff(decoding_order) > 0).all())
    if not is_whole or (is_intra and len(keys) < len(timestamps)):
        return None
    return IndexSurvey(decoding_order, keys, num_held_back=0 if is_intra else REORDER_PACKETS)


def survey_packets(
    container: av.container.InputContainer, stream: VideoStream, check: Callable[[], None]
) -> PacketSurvey | None:
    """Return what the packets tell; None where they do not tell each frame's time, or are no frames.

    Args:
        container: Where to read from.
        stream: Its video.
        check: Called at every packet; what it raises ends the survey.
    """
    codec = stream.codec_context.codec.canonical_name
    if codec not in (PLAIN_CODECS if container.format.name in TIMED_FORMATS else INTRA_CODECS):
        return None
    pts = array("q")
    keys: list[tuple[int, int]] = []
    try:
        for packet in container.demux(stream):
            check()
            if packet.pts is None and packet.dts is None and packet.size == 0:
                continue  # the end
            if packet.pts is None or packet.size == 0 or packet.is_corrupt:
                return None
            if packet.is_keyframe:
                keys.append((packet.pts, len(pts)))
            if not packet.is_discard and is_shown(packet, codec):
                pts.append(packet.pts)
    except av.error.FFmpegError:
        return None  # the rest of the file is damaged: decoding tells how many frames there are
    order = np.frombuffer(pts, np.int64) if pts else np.empty(0, np.int64)
    if not keys or keys[0][1] != 0 or len(np.unique(order)) < max(len(order), 1):
        return None
    clock = Clock(container, stream)
    if container.start_time is None:  # as in Matroska files, when they are opened quickly
        clock.origin = float(order.min()) * clock.time_base
    return PacketSurvey(order, keys, clock)


def _with_rank(packet: "VideoPacket", seen: list[int], first_rank: int) -> "tuple[VideoPacket, int]":
    assert packet.pts is not None
    place = bisect_left(seen, packet.pts)
    if place + 1 < len(seen) and seen[place + 1] == packet.pts:
        raise SurpriseError("two packets of one time")
    return packet, first_rank + place
