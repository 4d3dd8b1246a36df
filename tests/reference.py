"""What the plainest program makes of a video, to hold what the reader makes of it against."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from media_files import drawn_index, drawn_indices

from videollava_cli.preprocessing import resize_frame, to_model
from videollava_cli.reader import Reader
from videollava_cli.settings import Settings


@dataclass(frozen=True)
class Reference:
    """A file, and what the plainest program makes of it: all frames in order, as the model would see them."""

    path: Path
    pixels: list


def decode_all(path, pixels):
    """Decode a file from its beginning, passing over packets that cannot be decoded."""
    frames = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with suppress(av.error.InvalidDataError):
                frames += [
                    to_model(frame.to_ndarray(format="rgb24"), pixels, resize_frame) for frame in packet.decode()
                ]
    return Reference(path, frames)


def read_with(num_threads, reference, pixels, sampling):
    """Read a file with so many threads."""
    with Reader(Settings(), num_threads=num_threads) as reader:
        return reader.read(reader.find(str(reference.path)), pixels, sampling=sampling)


def assert_exact(clip, reference, chosen):
    """Make sure that a clip has the chosen frames of a file, to the last bit."""
    assert [stamp.index for stamp in clip.stamps] == chosen
    assert drawn_indices(clip) == [drawn_index(reference.pixels[index]) for index in chosen]
    assert np.array_equal(clip.pixels, [reference.pixels[index] for index in chosen])
