"""The frame index of a video, made before a frame is decoded: how many frames, when, and where decoding can start.

A frame's display index is its place in presentation order, from 0.
"""

from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from videollava_cli.reader.bitstream import is_shown
from videollava_cli.reader.container import Clock
from videollava_cli.sampling import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from videollava_cli.reader.bitstream import VideoPacket

    IndexedPackets = Iterator[tuple[VideoPacket, int | None]]  # None for a packet whose frame is not shown

MOV = "mov,mp4,m4a,3gp,3g2,mj2"
# Demuxers whose timestamps are the file's own. Those of avi, mpeg and the rest are made up, wrongly with B-frames.
TIMED_FORMATS = (MOV, "matroska,webm", "mpegts", "flv", "asf", "nut")
SEEKABLE_FORMATS = (MOV, "matroska,webm")
# Codecs whose every packet is a key packet: in whatever container, the frames are in the order of the packets.
INTRA_CODECS = {"mjpeg", "prores", "dnxhd", "ffv1", "png"}
# Codecs of which every packet gives one frame, and every key packet lets decoding start; VP8 apart, see below.
PLAIN_CODECS = INTRA_CODECS | {"h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4"}
PLAIN_CODECS |= {"h263", "flv1", "wmv1", "wmv2", "vc1"}
MAX_REORDERED = 1 << 24  # pixels of a picture: twenty packets of 8K take as much memory as a decoded picture
REORDER_WINDOW = 20  # packets: no codec shows a frame before more than 16 that stand in front of it


class IndexMismatch(Exception):  # noqa: N818 (no error of the user: a slower way reads the file)
    """The file is not as its tables or packets promised."""


@dataclass(frozen=True, slots=True)
class SeekPoint:
    """A key packet, at which decoding can start: its timestamp, where to seek for it, its frame's display index."""

    timestamp: int
    seek_to: int | None  # None for the first packet, which needs no seeking
    index: int


class TableIndex:
    """A frame index from the sample table of an mp4 or mov file, which has decoding timestamps: no packet is read."""

    def __init__(self, timestamps: "NDArray[np.int64]", keys: list[int], *, reorder_window: int) -> None:
        self.num_frames = len(timestamps)
        self._reorder_window = reorder_window
        self._timestamps, self._keys = timestamps, keys

    def gops(self, indices: Iterable[int]) -> dict[SeekPoint, list[int]]:
        """Return at which seek point to start for which of some display indices, in ascending order."""
        gops: dict[SeekPoint, list[int]] = {}
        for index in sorted(indices):
            gops.setdefault(self._seek_point(index), []).append(index)
        return gops

    def with_index(self, packets: "Iterator[VideoPacket]", start: SeekPoint) -> "IndexedPackets":
        """Yield the packets from a seek point on, each with the display index of its frame.

        The table has no presentation timestamps, so a packet is yielded once those of the next ones are known. Raises
        IndexMismatch if a packet is not where the table has it, or belongs in front of its key packet.
        """
        first = next((packet for packet in packets if packet.dts is None or packet.dts >= start.timestamp), None)
        if first is None or first.dts != start.timestamp or first.pts is None:
            raise IndexMismatch("the table led elsewhere")
        window, seen, key_pts = deque((first,)), [first.pts], first.pts
        for packet in packets:
            if packet.pts is None or packet.pts < key_pts:
                raise IndexMismatch("a packet without its time, or to be shown before its key frame")
            window.append(packet)
            insort(seen, packet.pts)
            if len(window) > self._reorder_window:
                yield _indexed(window.popleft(), seen, start.index)
        while window:
            yield _indexed(window.popleft(), seen, start.index)

    def _seek_point(self, index: int) -> SeekPoint:
        number = bisect_right(self._keys, index) - 1
        key = self._keys[number]
        timestamp = int(self._timestamps[key])
        if number == 0:
            return SeekPoint(timestamp, None, key)
        # FFmpeg looks for the last key packet whose presentation time is not later: ask shortly before the next one.
        is_last = number + 1 == len(self._keys)
        seek_to = self._timestamps[-1] if is_last else self._timestamps[self._keys[number + 1]] - 1
        return SeekPoint(timestamp, int(seek_to), key)


class PacketIndex:
    """A frame index from one pass over all packets, none of which was decoded.

    `pts` are the timestamps of all frames, int64, (N,), in the order of their packets; `keys` those of the key packets,
    each with its place among the packets. `last_duration` is that of the frame shown last, in ticks, if there is one.
    """

    def __init__(
        self, pts: "NDArray[np.int64]", keys: Sequence[tuple[int, int]], clock: Clock, *, last_duration: int | None
    ) -> None:
        self.num_frames = len(pts)
        self._places = np.argsort(pts)
        self._pts = pts[self._places]
        self._keys = sorted(keys)
        self._clock = clock
        self._last_duration = last_duration

    def timeline(self) -> Timeline:
        """Return when every frame is shown; the container must be open."""
        seconds = [self._clock.seconds(pts, index) for index, pts in enumerate(self._pts.tolist())]
        return self._clock.timeline(seconds, self._last_duration)

    def gops(self, indices: Iterable[int]) -> dict[SeekPoint, list[int]]:
        """Return at which seek point to start for which of some display indices, in ascending order.

        Open GOP: wanted leading frames after the next key frame merge both GOPs into one.
        """
        gops: dict[SeekPoint, list[int]] = {}
        last, last_place = None, -1
        for index in sorted(indices):
            number = max(bisect_right(self._keys, (int(self._pts[index]), self.num_frames)) - 1, 0)
            timestamp, place = self._keys[number]
            if last is None or place > last_place:
                last = SeekPoint(timestamp, None if place == 0 else timestamp, self._index(timestamp))
            gops.setdefault(last, []).append(index)
            last_place = max(last_place, int(self._places[index]), place)
        return gops

    def with_index(self, packets: "Iterator[VideoPacket]", start: SeekPoint) -> "IndexedPackets":
        """Yield the packets from a seek point on, each with the display index of its frame, None if it is not shown.

        Raises IndexMismatch if the seek point does not come.
        """
        is_found = False
        for packet in packets:
            is_found = is_found or packet.pts == start.timestamp
            if is_found:
                yield packet, self._shown_index(packet)
            elif packet.is_keyframe and packet.pts is not None and packet.pts > start.timestamp:
                break
        if not is_found:
            raise IndexMismatch("a key packet is not where it was")

    def _index(self, timestamp: int) -> int:
        return int(np.searchsorted(self._pts, timestamp))

    def _shown_index(self, packet: "VideoPacket") -> int | None:
        if packet.pts is None or packet.is_discard:
            return None
        index = self._index(packet.pts)
        return index if index < self.num_frames and self._pts[index] == packet.pts else None


FrameIndex = TableIndex | PacketIndex


def index_from_table(stream: VideoStream, format_name: str, num_bytes: int) -> tuple[TableIndex | None, bool]:
    """Return the index by a file's sample table, and whether a sample of an mp4 or mov file lies beyond its end.

    There is none where the table does not say all, as with edits, fragments and cut-off files. `format_name` is the
    demuxer's.
    """
    codec = stream.codec_context.codec.canonical_name
    is_intra = codec in INTRA_CODECS
    is_plain = codec in PLAIN_CODECS - {"vp8"} and stream.width * stream.height <= MAX_REORDERED
    if format_name != MOV and not (format_name == "avi" and is_intra):
        return None, False
    timestamps, keys, is_cut_off = array("q"), array("q"), False
    for number, entry in enumerate(stream.index_entries):
        is_cut_off = is_cut_off or entry.pos + entry.size > num_bytes
        is_plain = is_plain and not (entry.is_discard or entry.size == 0)
        timestamps.append(entry.timestamp)
        if entry.is_keyframe:
            keys.append(number)
    in_decode_order = np.asarray(timestamps, np.int64)
    is_whole = len(timestamps) == stream.frames and keys[:1] == array("q", [0])
    is_ascending = bool((np.diff(in_decode_order) > 0).all())
    if is_cut_off or not (is_plain and is_whole and is_ascending) or (is_intra and len(keys) < len(timestamps)):
        return None, is_cut_off and format_name == MOV
    return TableIndex(in_decode_order, keys.tolist(), reorder_window=0 if is_intra else REORDER_WINDOW), False


def index_from_packets(container: InputContainer, stream: VideoStream, check: Callable[[], None]) -> PacketIndex | None:
    """Read all packets; return None where they do not give each frame's time, or are no frames.

    `check` is called at every packet; what it raises ends the pass.
    """
    codec = stream.codec_context.codec.canonical_name
    if codec not in (PLAIN_CODECS if container.format.name in TIMED_FORMATS else INTRA_CODECS):
        return None
    pts, last = array("q"), (-(1 << 63), 0)  # of the frame shown last: timestamp, duration
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
                last = max(last, (packet.pts, packet.duration or 0))
    except av.error.FFmpegError:
        return None  # the rest of the file is damaged: decoding shows how many frames there are
    order = np.asarray(pts, np.int64)
    if not keys or keys[0][1] != 0 or len(np.unique(order)) < max(len(order), 1):
        return None
    clock = Clock(container, stream)
    if container.start_time is None:  # as in Matroska files, when they are opened quickly
        clock.origin = float(order.min()) * clock.time_base
    return PacketIndex(order, keys, clock, last_duration=last[1])


def _indexed(packet: "VideoPacket", seen: list[int], first_index: int) -> "tuple[VideoPacket, int]":
    assert packet.pts is not None
    place = bisect_left(seen, packet.pts)
    if place + 1 < len(seen) and seen[place + 1] == packet.pts:
        raise IndexMismatch("two packets of one time")
    return packet, first_index + place
