"""Streams without a container are read as a full decode would, whatever they are called, within a bound of memory."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from in_process import vllava
from media_files import Recipe, drawn, drawn_indices, remux, truncate, write_drawn, write_frames
from test_reader_hostile import MAX_BYTES, read_in_a_child

from videollava_cli.errors import MediaError
from videollava_cli.preprocessing import resize_frame, to_model
from videollava_cli.sampling import uniform_indices

BARE = {
    "h264": Recipe(options={"bf": "3", "g": "8"}),
    "hevc": Recipe("libx265", options={"x265-params": "log-level=none:bframes=3:keyint=8"}),
    "m2v": Recipe("mpeg2video", Fraction(30), options={"bf": "2", "g": "6"}),
    "m1v": Recipe("mpeg1video", Fraction(30), options={"bf": "2", "g": "6"}),
}
RECIPES = BARE | {"y4m": Recipe("rawvideo")}
RATES = {"h264": 25, "hevc": 25, "m2v": 30, "m1v": 30, "y4m": 10}


@pytest.fixture(params=RECIPES)
def stream(request, tmp_path):
    """Write twenty frames as a stream of each kind, B-frames among them."""
    return write_drawn(tmp_path / f"clip.{request.param}", 20, RECIPES[request.param])


def test_frames_are_those_of_a_full_decode_in_a_container(tmp_path, stream, read, pixels):
    kind = stream.suffix[1:]
    contained = write_drawn(tmp_path / "clip.mkv", 20, RECIPES[kind])
    remux(contained, stream, list)  # the same pictures: x264 does not encode them alike twice
    with av.open(str(contained)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

    clip = read(stream)

    indices = uniform_indices(20)
    assert [stamp.index for stamp in clip.stamps] == indices == drawn_indices(clip)
    assert np.array_equal(clip.pixels, [to_model(frames[index], pixels, resize_frame) for index in indices])


def test_name_says_nothing(stream, read):
    expected = read(stream).pixels

    for name in ("clip.mp4", "clip.mpg", "clip"):
        stream = stream.rename(stream.with_name(name))
        assert np.array_equal(read(stream).pixels, expected)


def test_moments_and_windows_go_by_the_rate(stream, read):
    rate = RATES[stream.suffix[1:]]

    clip = read(stream, 8 / rate, 16 / rate)

    assert drawn_indices(clip) == list(range(8, 16))
    assert clip.stamps[0].seconds == pytest.approx(8 / rate, abs=1e-6)


def test_notice_tells_the_rate_where_there_are_no_timestamps(stream, read):
    kind = stream.suffix[1:]
    notice = f"has no timestamps: times are those of {RATES[kind]} frames a second"

    assert any(notice in text for text in read(stream).notices) == (kind in BARE)


def test_what_is_left_of_a_stream_that_was_cut_off_is_read(stream, read):
    clip = read(truncate(stream, 0.7))

    assert drawn_indices(clip)[0] == 0
    assert clip.stamps[-1].index < 17


def test_stdin_gives_the_same_frames(stream, read):
    piped = json.loads(vllava("frames", "-", "--json", stdin=stream.read_bytes()).stdout)

    assert [frame["index"] for frame in piped["frames"]] == [stamp.index for stamp in read(stream).stamps]


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "gray", "yuv420p", "yuv422p"])
@pytest.mark.parametrize("size", [(80, 64), (81, 65)])
def test_y4m_of_other_layouts_and_odd_sizes_is_read(tmp_path, read, pix_fmt, size):
    frames = [drawn(index, *size) for index in range(20)]

    clip = read(write_frames(tmp_path / "clip.y4m", frames, Recipe("rawvideo", pix_fmt=pix_fmt)))

    assert drawn_indices(clip) == uniform_indices(20)


@pytest.mark.parametrize("kind", BARE)
def test_damage_in_the_middle_leaves_the_rest(tmp_path, read, kind):
    path = write_drawn(tmp_path / f"clip.{kind}", 40, BARE[kind])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(content)

    indices = drawn_indices(read(path))

    assert indices[0] == 0
    assert indices[-1] >= 30


@pytest.mark.parametrize("head", [b"YUV4MPEG2 W64 H48 F10:1\n", b"\0\0\x01\xb3\x04\0\x30\x25", b"\0\0\0\x01\x67"])
def test_stream_without_a_picture_is_refused(tmp_path, read, head):
    path = tmp_path / "clip"
    path.write_bytes(head)

    with pytest.raises(MediaError, match=r"clip' "):
        read(path)


@pytest.mark.parametrize("kind", BARE)
@pytest.mark.parametrize("filler", [b"\0\0\x01\x0c" + b"\xff" * 60, b"\xff" * 64])
def test_hundred_megabytes_without_a_picture_stay_within_the_memory(tmp_path, kind, filler):
    path = write_drawn(tmp_path / f"clip.{kind}", 20, BARE[kind])
    path.write_bytes(path.read_bytes()[:400] + filler * (100_000_000 // 64))

    [[message, _, peak]] = read_in_a_child([path])

    assert message.endswith("without a new picture: it is damaged or a trap")
    assert peak < MAX_BYTES
