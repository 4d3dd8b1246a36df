"""Decode a few frames of a video without what lies between them: each from the key frame of its GOP, in threads.

A GOP with wanted frames is sought, fed to the decoder up to its last wanted frame, without the packets that no wanted
frame needs, and drained. GOPs go to several threads, each with a container of its own: PyAV releases the interpreter's
lock while it decodes.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from threading import Event
from typing import TYPE_CHECKING, Literal, cast

import av.error
import av.filter
import av.logging
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from videollava_cli.reader import Reading
from videollava_cli.reader.bitstream import disposable_by
from videollava_cli.reader.container import Clock, decoder_of, open_container, opened, video_stream
from videollava_cli.reader.frame_index import FrameIndex, IndexMismatch, SeekPoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from videollava_cli.reader.bitstream import VideoPacket

PIXELS_AT_ONCE = 20_000_000  # of the pictures that all decoders have in work: two of 4K, or one of 8K
# Codecs whose packets may stand in another order than that in which their frames are shown.
REORDERED_CODECS = {"h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "vc1"}
MAX_SIDE_DATA = 64  # kinds that FFmpeg may know: 32 in its version 8.1
# Codecs whose decoders keep the orientation that a frame tells, perhaps the first alone, until the next, or a seek.
KEEPS_ORIENTATION = {"hevc", "vvc"}
SERIAL_SHARE = 0.1  # of the work of threads that share one decoder (`scripts/bench read`, the clip of one key frame)


@dataclass(frozen=True, slots=True)
class Picture:
    """A wanted frame, transformed, and its time.

    `has_matrix` says whether it came with a display matrix, where the decoder keeps that for the frames behind it.
    """

    seconds: float
    pixels: "NDArray[np.uint8]"
    has_matrix: bool = False


def decode_gops(
    reading: Reading, index: FrameIndex, wanted: Iterable[int], *, seek: bool, fresh: InputContainer | None = None
) -> dict[int, Picture]:
    """Decode the frames of the wanted display indices; return the pictures by display index.

    `seek` says whether to seek for a key frame, or to read all packets in front of it. `fresh` is the file, opened
    already and not yet read from. Raises IndexMismatch if a frame did not come out whole, or not where the index said.
    """
    with fresh or opened(reading.file) as container:
        stream = video_stream(container, reading.file.name)
        keeps_orientation = stream.codec_context.codec.canonical_name in KEEPS_ORIENTATION
        gops = index.gops({*wanted, 0} if keeps_orientation else wanted)
        in_memory = max(1, PIXELS_AT_ONCE // max(1, stream.width * stream.height))
        costs = [gop[-1] - start.index + 1 for start, gop in gops.items()]
        num_threads = min(reading.num_threads, in_memory)
        num_workers = min(num_threads, len(costs)) if reading.processors else _num_workers(costs, num_threads)
        first, *others = gops.items()
        if seek:  # the longest first, so that all decoders end soonest; but one that needs no seeking stays in front
            others.sort(key=lambda gop: gop[0].index - gop[1][-1])
        else:
            num_workers = 1
        task = _Task(reading, index, deque([first, *others]), seek=seek, num_workers=num_workers)
        with ThreadPoolExecutor(num_workers, thread_name_prefix="decoder") as pool:
            futures = [pool.submit(_work, task) for _ in range(num_workers - 1)]
            pictures = _work(task, container)
            for future in futures:
                pictures |= future.result()
    if len({picture.has_matrix for picture in pictures.values()}) > 1:
        raise IndexMismatch("frames without an orientation, where that of frames before may last")
    return pictures


def _num_workers(costs: list[int], num_threads: int) -> int:
    """Return how many decoders are quickest when they share some threads; `costs` are each GOP's frames to decode.

    Decoders of one thread each lose nothing to each other, but GOPs may be too few or too unequal for them.
    """

    def duration(num_workers: int) -> float:  # in frames of one thread
        busy = [0] * num_workers
        for cost in sorted(costs, reverse=True):
            busy[busy.index(min(busy))] += cost
        return max(busy) * (SERIAL_SHARE + (1 - SERIAL_SHARE) / (num_threads // num_workers))  # Amdahl's law

    return min(range(max(1, min(num_threads, len(costs))), 0, -1), key=duration)


def upright_rgb(frame: VideoFrame, *, format_name: str = "") -> "NDArray[np.uint8]":
    """Return a frame as uint8 RGB, (H, W, 3), over white, turned and mirrored as its display matrix says.

    `format_name` is the demuxer's.
    """
    has_alpha = any(component.is_alpha for component in frame.format.components)
    rgb = (
        _over_white(frame, format_name) if has_alpha else frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    )
    a, b, c, d = _display_matrix(frame) or (1, 0, 0, 1)
    if abs(b * c) > abs(a * d):
        rgb, a, d = rgb.swapaxes(0, 1), c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _display_matrix(frame: VideoFrame) -> list[int] | None:
    """Return (a, b, c, d), in any unit, if a frame has them: its pixel (x, y) is shown at (ax + cy, bx + dy)."""
    # PyAV's side data and their frame keep each other alive: so take those of a small copy.
    small = frame.reformat(width=2, height=2, format="gray", interpolation="POINT")
    try:
        side_data = small.side_data
    except ValueError:
        side_data = _with_known_side_data(small).side_data
    matrix = cast("Mapping[SideDataType, memoryview]", side_data).get(SideDataType.DISPLAYMATRIX)
    return None if matrix is None else np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist()


def _with_known_side_data(frame: VideoFrame) -> VideoFrame:
    """Return a frame without the side data that PyAV has no name for: it then gives out none at all."""
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))]
    nodes += [graph.add("sidedata", f"mode=delete:type={kind}") for kind in range(len(SideDataType), MAX_SIDE_DATA)]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    graph.push(frame)
    return cast(VideoFrame, graph.pull())


def _over_white(frame: VideoFrame, format_name: str) -> "NDArray[np.uint8]":
    rgba = frame.to_ndarray(format="rgba")  # uint8, (H, W, 4)
    # AVI's pictures of 32 bits have no alpha by its standard, and mostly zeros in its place.
    if format_name == "avi" and not rgba[..., 3].any():
        return np.ascontiguousarray(rgba[..., :3], dtype=np.uint8)
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def use_threads(stream: VideoStream, reading: Reading, num_decoders: int = 1) -> None:
    """Give one of several decoders its share of the reading's threads.

    Frame threading where the memory allows it, else slice threading. Frame threading needs one extra thread, as in
    FFmpeg's own choice. With PyAV's logging on, FFmpeg's threads can deadlock on the interpreter's lock when the
    decoder is closed, so there is one then.
    """
    is_alone = reading.processors is None and av.logging.get_level() is None
    share = reading.num_threads // num_decoders if is_alone else 1
    has_frames = share > 1 and num_decoders * (share + 1) * stream.width * stream.height <= PIXELS_AT_ONCE
    stream.codec_context.thread_type = "AUTO" if has_frames else "SLICE"
    stream.codec_context.thread_count = share + 1 if has_frames else share


@dataclass(frozen=True, slots=True)
class _Task:
    """The GOPs still to decode, taken by the workers one by one, until one of them gives up."""

    reading: Reading
    index: FrameIndex
    gops: deque[tuple[SeekPoint, list[int]]]
    seek: bool
    num_workers: int
    given_up: Event = field(default_factory=Event)

    def check(self) -> None:
        self.reading.check()
        if self.given_up.is_set():
            raise IndexMismatch("another thread gave up")


def _work(task: _Task, container: InputContainer | None = None) -> dict[int, Picture]:
    decoder: _Decoder | None = None
    pictures: dict[int, Picture] = {}
    with ExitStack() as stack:
        try:
            while task.gops:
                with task.reading.processor():
                    try:
                        start, wanted = task.gops.popleft()
                    except IndexError:  # another thread took the last one
                        break
                    if decoder is None:
                        file = task.reading.file
                        container = container or stack.enter_context(open_container(file.path, file.name))
                        decoder = _Decoder(task, container)
                    pictures |= decoder.decode_gop(start, wanted)
        except av.error.FFmpegError as error:
            task.given_up.set()
            raise IndexMismatch(str(error)) from error
        except BaseException:
            task.given_up.set()
            raise
    return pictures


class _Decoder:
    """One container and its decoder, going from GOP to GOP."""

    def __init__(self, task: _Task, container: InputContainer) -> None:
        self._task, self._container = task, container
        self._stream = video_stream(container, task.reading.file.name)
        use_threads(self._stream, task.reading, task.num_workers)
        self._clock = Clock(container, self._stream)
        self._packets = _packets(container, self._stream)
        self._is_anchored = True
        context = self._context = decoder_of(self._stream)
        self._is_reordered = context.codec.canonical_name in REORDERED_CODECS
        self._keeps_orientation = context.codec.canonical_name in KEEPS_ORIENTATION
        self._is_disposable = disposable_by(context.codec.canonical_name, context.extradata)
        # FFmpeg's HEVC decoder skips pictures on which those of a higher layer may build.
        self._between: Literal["DEFAULT", "NONREF"] = "DEFAULT" if context.codec.canonical_name == "hevc" else "NONREF"

    def decode_gop(self, start: SeekPoint, wanted: list[int]) -> dict[int, Picture]:
        context, left = self._context, set(wanted)
        if self._task.seek and start.seek_to is not None:
            self._container.seek(start.seek_to, stream=self._stream)
            self._packets = _packets(self._container, self._stream)
        self._is_anchored = start.seek_to is None
        self._num_shown, self._last_pts = 0, -math.inf
        is_in_order, num_in_order, num_behind, last_fed = self._is_reordered, 0, 0, -math.inf
        fed, pictures = dict[int, int](), dict[int, Picture]()
        for packet, index in self._task.index.with_index(self._packets, start):
            self._task.check()
            pts = -math.inf if packet.pts is None else packet.pts
            is_in_order, last_fed = is_in_order and pts > last_fed, pts
            is_doubtful = is_in_order and not packet.is_keyframe and num_behind < max(1, context.has_b_frames)
            if not (left or is_doubtful):
                self._packets = chain((packet,), self._packets)
                break
            num_behind += not left
            num_in_order += is_in_order and index is not None
            context.skip_frame = "DEFAULT"
            if index in left and packet.pts is not None:
                fed[packet.pts] = index
                left.remove(index)
            elif not (packet.is_keyframe or is_in_order):
                if self._is_disposable and self._is_disposable(bytes(packet)):
                    continue
                context.skip_frame = self._between
            pictures |= self._wanted(context.decode(packet), fed)
            if not (left or is_in_order):
                break
        pictures |= self._wanted(context.decode(None), fed)
        context.flush_buffers()
        if left or len(pictures) < len(wanted):
            raise IndexMismatch("a frame did not come out")
        # Copies of AVI files, and ASF, have decoding times, perhaps delayed, for those of presentation. So until times
        # leave that order nothing is skipped, and packets behind the last wanted are decoded that may be shown before.
        if is_in_order and context.has_b_frames and self._num_shown < num_in_order:
            raise IndexMismatch("the decoder reorders frames, and the timestamps do not")
        return pictures

    def _wanted(self, frames: Iterable[VideoFrame], fed: dict[int, int]) -> dict[int, Picture]:
        pictures = {}
        for frame in frames:
            # Intra-refresh streams call P pictures key frames; what comes next may build on frames never decoded.
            self._is_anchored |= bool(frame.key_frame) and frame.pict_type == PictureType.I
            self._num_shown += 1
            if frame.pts is None:
                continue
            if frame.pts <= self._last_pts:
                raise IndexMismatch("frames come out in another order than that of their timestamps")
            self._last_pts = frame.pts
            index = fed.get(frame.pts)
            if index is None:
                continue
            if frame.is_corrupt or not self._is_anchored:
                raise IndexMismatch("a frame is damaged, or builds on others that were not decoded")
            seconds = self._clock.seconds(frame.pts, index)
            pixels = self._task.reading.transform(upright_rgb(frame, format_name=self._container.format.name))
            has_matrix = self._keeps_orientation and _display_matrix(frame) is not None
            pictures[index] = Picture(seconds, pixels, has_matrix)
        return pictures


def _packets(container: InputContainer, stream: VideoStream) -> "Iterator[VideoPacket]":
    """Yield a stream's packets without the empty one that PyAV ends with."""
    return (packet for packet in container.demux(stream) if packet.size)
