"""Decode a few frames of a video without what lies between them; knows packets and threads, nothing of files' tables.

A group of wanted frames that decode from one key packet is sought, fed from there to its last frame, without the
pictures that no other needs, and drained. Groups go to several threads, each with a container of its own: PyAV
releases the interpreter's lock while it decodes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Literal

import av.error
import av.logging
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from videollava_cli.reader.shrink import Shrink
from videollava_cli.reader.turns import Turns
from videollava_cli.reader.video.containers import Clock, opened, video_stream
from videollava_cli.reader.video.packets import disposable_by
from videollava_cli.reader.video.survey import Start, SurpriseError, Survey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from videollava_cli.reader.video.packets import VideoPacket

PIXELS_AT_ONCE = 20_000_000  # of the pictures that all decoders have in work: two of 4K, or one of 8K
SERIAL_SHARE = 0.1  # of the work of threads that share one decoder (`scripts/bench read`, the clip of one key frame)


@dataclass(frozen=True, slots=True)
class Picture:
    """A wanted frame, brought to the model's side, and its time."""

    seconds: float
    shrunk: "NDArray[np.uint8]"


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A file, what the user calls it, how its frames are shrunk, and with how many threads it may be decoded.

    With `turns`, which other readings take too, these are threads of ours alone, each with a decoder: FFmpeg's own
    would not wait for their turn.
    """

    path: Path
    name: str
    shrink: Shrink
    num_threads: int
    turns: Turns | None = None

    def turn(self, is_wanted: Callable[[], bool] = lambda: True) -> AbstractContextManager[bool]:
        """Wait for a turn as long as it is wanted; give whether it was had."""
        return self.turns.turn(is_wanted) if self.turns else nullcontext(True)


def decode_excerpts(
    file: VideoFile, survey: Survey, ranks: Iterable[int], *, seek: bool, fresh: InputContainer | None = None
) -> dict[int, Picture]:
    """Decode the frames of some ranks.

    Args:
        file: What to decode.
        survey: What is known of its frames.
        ranks: The wanted ones.
        seek: Whether to seek for the start of a group, or to read all packets in front of it.
        fresh: The file, opened already and not yet read from.

    Returns:
        The pictures by rank.

    Raises:
        SurpriseError: If a frame did not come out whole, or not where the survey said.
        ReadingStopped: If told to stop.
    """
    groups = survey.starts(ranks)
    with nullcontext(fresh) if fresh else opened(file.path, file.name) as container:
        stream = video_stream(container, file.name)
        in_memory = max(1, PIXELS_AT_ONCE // max(1, stream.width * stream.height))
        costs = [group[-1] - start.rank + 1 for start, group in groups.items()]
        num_threads = min(file.num_threads, in_memory)
        num_workers = min(num_threads, len(costs)) if file.turns else _num_workers(costs, num_threads)
        num_workers = num_workers if seek else 1
        in_order = _longest_first(groups) if seek else deque(groups.items())
        task = _Task(file, survey, in_order, seek=seek, num_workers=num_workers)
        use_threads(stream, file, num_workers)
        with ThreadPoolExecutor(num_workers, thread_name_prefix="decoder") as pool:
            others = [pool.submit(_open_and_work, task) for _ in range(num_workers - 1)]
            pictures = _work(task, lambda: _Decoder(task, container, stream))
            for other in others:
                pictures |= other.result()
    return pictures


def _num_workers(costs: list[int], num_threads: int) -> int:
    """Return how many decoders are quickest when they share some threads.

    Decoders of one thread each lose nothing to each other, but groups may be too few or too unequal for them.

    Args:
        costs: Of each group, in frames to decode.
        num_threads: At most so many, and as many decoders.
    """

    def duration(num_workers: int) -> float:
        """Return when so many decoders have ended, in frames of one thread."""
        busy = [0] * num_workers
        for cost in sorted(costs, reverse=True):
            busy[busy.index(min(busy))] += cost
        return max(busy) * (SERIAL_SHARE + (1 - SERIAL_SHARE) / (num_threads // num_workers))  # Amdahl's law

    return min(range(max(1, min(num_threads, len(costs))), 0, -1), key=duration)


def _longest_first(groups: dict[Start, list[int]]) -> deque[tuple[Start, list[int]]]:
    """Return groups in the order in which several decoders end soonest; one that needs no seeking stays first."""
    first, *others = groups.items()
    return deque([first, *sorted(others, key=lambda group: group[0].rank - group[1][-1])])


def upright_rgb(frame: VideoFrame) -> "NDArray[np.uint8]":
    """Return a frame as uint8 RGB, (H, W, 3), turned as its display matrix says (multiples of 90 degrees)."""
    rgb: NDArray[np.uint8] = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(rgb, (round(frame.rotation / 90)) % 4)) if frame.rotation else rgb


def use_threads(stream: VideoStream, file: VideoFile, num_decoders: int = 1) -> None:
    """Let one of some decoders do its share of the work of the file's threads.

    It works on several frames at once where the memory allows it, else on slices of one. For several frames it takes
    a thread more, as FFmpeg's own choice has it, because one of them waits for another. Where the program has PyAV pass
    FFmpeg's log on, FFmpeg gets no threads: they would want the interpreter's lock to tell of damage, while whoever
    closes the decoder holds it and waits for them.
    """
    is_alone = file.turns is None and av.logging.get_level() is None
    share = file.num_threads // num_decoders if is_alone else 1
    has_frames = share > 1 and num_decoders * (share + 1) * stream.width * stream.height <= PIXELS_AT_ONCE
    stream.codec_context.thread_type = "AUTO" if has_frames else "SLICE"
    stream.codec_context.thread_count = share + 1 if has_frames else share


@dataclass(frozen=True, slots=True)
class _Task:
    """The groups still to decode, taken by the threads one by one, until one of them gives up."""

    file: VideoFile
    survey: Survey
    groups: deque[tuple[Start, list[int]]]
    seek: bool
    num_workers: int
    given_up: Event = field(default_factory=Event)

    def turn(self) -> AbstractContextManager[bool]:
        """Wait for a turn as long as there are groups to decode; give whether it was had."""
        return self.file.turn(lambda: bool(self.groups) and not self.given_up.is_set())

    def check(self) -> None:
        """Leave if told to stop, or if another thread could not go on."""
        self.file.shrink.check()
        if self.given_up.is_set():
            raise SurpriseError("another thread gave up")


def _open_and_work(task: _Task) -> dict[int, Picture]:
    with ExitStack() as stack:

        def open_decoder() -> _Decoder:
            """Open a container of this thread's own."""
            container = stack.enter_context(opened(task.file.path, task.file.name))
            stream = video_stream(container, task.file.name)
            use_threads(stream, task.file, task.num_workers)
            return _Decoder(task, container, stream)

        return _work(task, open_decoder)


def _work(task: _Task, open_decoder: "Callable[[], _Decoder]") -> dict[int, Picture]:
    """Decode groups while there are any; return their pictures by rank."""
    decoder: _Decoder | None = None
    pictures: dict[int, Picture] = {}
    try:
        while task.groups:
            with task.turn() as is_had:
                if not is_had:
                    break
                start, ranks = task.groups.popleft()
                decoder = decoder or open_decoder()
                pictures |= decoder.decode_group(start, ranks)
    except IndexError:  # another thread took the last group
        pass
    except av.error.FFmpegError as error:
        task.given_up.set()
        raise SurpriseError(str(error)) from error
    except BaseException:
        task.given_up.set()
        raise
    return pictures


class _Decoder:
    """One container and its decoder, going from group to group."""

    def __init__(self, task: _Task, container: InputContainer, stream: VideoStream) -> None:
        self._task, self._container, self._stream = task, container, stream
        self._clock = Clock(container, stream)
        self._packets = _packets(container, stream)
        self._is_anchored = True
        context = stream.codec_context
        self._is_disposable = disposable_by(context.codec.canonical_name, context.extradata)
        # FFmpeg's HEVC decoder leaves out pictures on which those of a higher layer may build.
        self._between: Literal["DEFAULT", "NONREF"] = "DEFAULT" if context.codec.canonical_name == "hevc" else "NONREF"

    def decode_group(self, start: Start, ranks: list[int]) -> dict[int, Picture]:
        """Feed the packets from a start to the last wanted frame; return the pictures by rank."""
        context, left = self._stream.codec_context, set(ranks)
        if self._task.seek and start.seek_to is not None:
            self._container.seek(start.seek_to, stream=self._stream)
            self._packets = _packets(self._container, self._stream)
        self._is_anchored = start.seek_to is None
        is_in_order = True
        fed: dict[int, int] = {}
        pictures: dict[int, Picture] = {}
        for packet, rank in self._task.survey.ranked(self._packets, start):
            self._task.check()
            is_in_order &= packet.pts == packet.dts
            if rank in left and packet.pts is not None:
                fed[packet.pts] = rank
                left.remove(rank)
                context.skip_frame = "DEFAULT"
            elif packet.is_keyframe:
                context.skip_frame = "DEFAULT"
            elif self._is_disposable and self._is_disposable(bytes(packet)):
                continue
            else:
                context.skip_frame = self._between
            pictures |= self._wanted(context.decode(packet), fed)
            if not left:
                break
        pictures |= self._wanted(context.decode(None), fed)
        context.flush_buffers()
        if left or len(pictures) < len(ranks):
            raise SurpriseError("a frame did not come out")
        # Files copied carelessly from AVI, and ASF, have decoding times where those of presentation should stand.
        if context.has_b_frames and (is_in_order or self._task.survey.is_in_order):
            raise SurpriseError("the decoder reorders frames, and the timestamps do not")
        return pictures

    def _wanted(self, frames: Iterable[VideoFrame], fed: dict[int, int]) -> dict[int, Picture]:
        """Return the pictures of the wanted ones among some frames, by rank."""
        pictures = {}
        for frame in frames:
            # Intra-refresh streams call P pictures key frames; what comes next may build on frames never decoded.
            self._is_anchored |= bool(frame.key_frame) and frame.pict_type == PictureType.I
            rank = fed.get(frame.pts) if frame.pts is not None else None
            if rank is None:
                continue
            if frame.is_corrupt or not self._is_anchored:
                raise SurpriseError("a frame is damaged, or builds on others that were not decoded")
            seconds = self._clock.seconds(frame.pts, rank)
            pictures[rank] = Picture(seconds, self._task.file.shrink(upright_rgb(frame)))
        return pictures


def _packets(container: InputContainer, stream: VideoStream) -> "Iterator[VideoPacket]":
    """Yield a stream's packets without the empty one that PyAV ends with."""
    return (packet for packet in container.demux(stream) if packet.size)
