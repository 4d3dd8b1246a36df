"""Read a clip by one method in a process of its own; print seconds and peak memory as JSON, save the frames as .npy.

python -m benchmarks.methods METHOD CLIP NUM_THREADS WARM_UP FRAMES

The method reads WARM_UP first, so that no import counts. Frames are uint8 RGB (8, 224, 224, 3); all methods but
`documented` shrink them as ours does.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from internals import frame_to_model, read, status_bytes
from numpy.typing import NDArray

from videollava_cli.sampling import uniform_indices

Frames = NDArray[np.uint8]


def read_ours(path: str, num_threads: int) -> Frames:
    """Read with our reader."""
    return read(path, num_threads).pixels


def _read_documented(path: str, num_threads: int) -> Frames:
    import av
    from transformers import VideoLlavaImageProcessor

    from benchmarks.documented import frames_of

    with av.open(path) as container:
        if num_threads == 1:  # more are PyAV's default number
            container.streams.video[0].codec_context.thread_count = 1
        clip = frames_of(container, container.streams.video[0].frames)
    shrunk: Any = VideoLlavaImageProcessor()(list(clip), do_rescale=False, do_normalize=False, return_tensors="np")
    return np.ascontiguousarray(next(iter(shrunk.values())).transpose(0, 2, 3, 1).astype(np.uint8))


def _read_decord2(path: str, num_threads: int) -> Frames:
    import decord

    reader = decord.VideoReader(path, num_threads=num_threads)
    return _shrunk(reader.get_batch(uniform_indices(len(reader))).asnumpy())


def _read_torchcodec(path: str, num_threads: int) -> Frames:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(
        path, dimension_order="NHWC", num_ffmpeg_threads=num_threads, seek_mode="exact"
    )  # reads all packets first
    return _shrunk(decoder.get_frames_at(uniform_indices(len(decoder))).data.numpy())


def _read_opencv(path: str, num_threads: int) -> Frames:
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, num_threads])
    frames = []
    for index in uniform_indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT))):
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        is_read, frame = capture.read()
        if not is_read:
            raise ValueError(f"frame {index} cannot be read")
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    return _shrunk(frames)


METHODS: dict[str, Callable[[str, int], Frames]] = {
    "vllava": read_ours,
    "documented": _read_documented,
    "decord2": _read_decord2,
    "torchcodec": _read_torchcodec,
    "opencv": _read_opencv,
}


def main() -> int:
    """Measure, print, and save the frames; return 1 if the method fails."""
    name, clip, num_threads, warm_up, saved = sys.argv[1:]
    method = METHODS[name]
    try:
        method(warm_up, int(num_threads))
        began = time.perf_counter()
        frames = method(clip, int(num_threads))
        seconds = time.perf_counter() - began
    except Exception as error:  # whatever a method raises is what its row shall say
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        print(json.dumps({"failure": f"{type(error).__name__}: {reason}"}))
        return 1
    print(json.dumps({"seconds": seconds, "peak_mb": _peak_mb()}))
    np.save(saved, frames)
    return 0


def _shrunk(frames: Any) -> Frames:
    return np.stack([frame_to_model(frame) for frame in frames])


def _peak_mb() -> float:  # of 2^20 bytes
    if sys.platform == "linux":  # which hands `ru_maxrss` down from the parent process
        return status_bytes("VmHWM") / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


if __name__ == "__main__":
    sys.exit(main())
