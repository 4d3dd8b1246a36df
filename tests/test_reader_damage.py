"""Damaged, cut-off and lying videos: the rest is read, the damage told, and what is not wanted not even noticed."""

import subprocess
import sys
from dataclasses import replace

import av
import pytest
from media_files import (
    Recipe,
    damage_packet,
    drawn,
    drawn_indices,
    truncate,
    write_drawn,
    write_two_videos,
)
from reference import assert_exact, decode_all, read_with

from videollava_cli.errors import MediaError
from videollava_cli.sampling import Window

NUM_FRAMES = 61
CHOSEN = [0, 7, 15, 22, 30, 38, 45, 53]
H264 = Recipe(options={"preset": "ultrafast", "bf": "2", "g": "12", "x264-params": "b-adapt=0:scenecut=0"})
VP9 = Recipe("libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "g": "12"})
MPEG4 = Recipe("mpeg4", options={"qscale": "3", "flags": "+qscale", "bf": "2", "g": "12"})
MJPEG = Recipe("mjpeg", pix_fmt="yuvj420p", options={"qscale": "3", "flags": "+qscale"})
FAST_START = {"movflags": "faststart"}


@pytest.mark.parametrize(
    ("name", "recipe"), [("clip.mp4", H264), ("clip.mkv", H264), ("clip.flv", H264), ("clip.webm", VP9)]
)
def test_damage_in_what_no_wanted_frame_needs_is_not_noticed(tmp_path, read, name, recipe):
    path = write_drawn(tmp_path / name, NUM_FRAMES, recipe)
    for unneeded in (10, 11, 57, 58, 59, 60):  # behind the last wanted frame of their group of twelve
        damage_packet(path, unneeded)

    clip = read(path)

    assert drawn_indices(clip) == [stamp.index for stamp in clip.stamps] == CHOSEN
    assert clip.notices == ()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.flv", "clip.avi"])
def test_damage_in_what_a_wanted_frame_needs_is_told(tmp_path, read, name):
    path = damage_packet(write_drawn(tmp_path / name, NUM_FRAMES, MPEG4 if name.endswith("avi") else H264), 37)

    clip = read(path)

    assert len(clip.pixels) == 8
    assert drawn_indices(clip)[:2] == CHOSEN[:2]
    assert "is damaged (" in " ".join(clip.notices)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.ts", "clip.flv", "clip.avi"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated_video_gives_the_frames_of_its_rest(tmp_path, pixels, name, share):
    path = truncate(write_drawn(tmp_path / name, NUM_FRAMES, MPEG4 if name.endswith("avi") else H264), share)
    reference = decode_all(path, pixels)
    total = len(reference.pixels)
    assert 0.1 < total / NUM_FRAMES < 0.9

    clip = read_with(1, reference, pixels, Window())

    assert_exact(clip, reference, [k * total // 8 for k in range(8)])


TELL_THE_LOG = """
import sys, av.logging
from videollava_cli.preprocessing import PixelSettings
from videollava_cli.reader import Reader
from videollava_cli.settings import Settings
av.logging.set_level(av.logging.ERROR)
pixels = PixelSettings(48, 48, 1 / 255, (0, 0, 0), (1, 1, 1))
reader = Reader(Settings(), num_threads=2)
for _ in range(100):
    clip = reader.read(reader.find(sys.argv[1]), pixels)
print(*(stamp.index for stamp in clip.stamps))
"""


def test_damage_is_survived_where_a_program_has_ffmpeg_tell_its_log(tmp_path, read):
    path = damage_packet(write_drawn(tmp_path / "clip.mp4", NUM_FRAMES, H264), 37)

    command = [sys.executable, "-c", TELL_THE_LOG, path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(stamp.index) for stamp in read(path).stamps]
    assert "NAL" in run.stderr


def test_truncated_mp4_with_its_header_in_front_says_that_a_part_is_missing(tmp_path, read):
    path = truncate(write_drawn(tmp_path / "clip.mp4", NUM_FRAMES, replace(H264, container=FAST_START)), 0.6)

    clip = read(path)

    indices = [stamp.index for stamp in clip.stamps]
    assert drawn_indices(clip) == indices
    assert 20 < indices[-1] < 50
    assert clip.notices[0] == f"{str(path)!r} is cut off: a part of its 61 frames is missing"


@pytest.mark.parametrize("claimed", [4, 400, 2**32 - 1])
@pytest.mark.parametrize("recipe", [MPEG4, MJPEG])
def test_avi_that_lies_about_its_number_of_frames_gives_the_right_ones(tmp_path, read, recipe, claimed):
    path = write_drawn(tmp_path / "clip.avi", 40, recipe)
    content = bytearray(path.read_bytes())
    length = content.index(b"strh") + 8 + 32  # dwLength of the stream's header
    content[length : length + 4] = claimed.to_bytes(4, "little")
    path.write_bytes(content)

    clip = read(path)

    assert drawn_indices(clip) == [stamp.index for stamp in clip.stamps] == [0, 5, 10, 15, 20, 25, 30, 35]


def test_avi_that_lies_about_its_number_of_frames_is_found_out(tmp_path, read):
    path = write_drawn(tmp_path / "clip.avi", 40, MPEG4)
    content = bytearray(path.read_bytes())
    length = content.index(b"strh") + 8 + 32
    content[length : length + 4] = (400).to_bytes(4, "little")
    path.write_bytes(content)

    assert read(path).notices == (f"{str(path)!r} holds 40 frames where its header says 400",)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.mov", "clip.avi"])
def test_first_of_two_videos_is_taken_and_who_asks_is_told(tmp_path, read, name):
    path = write_two_videos(tmp_path / name)

    clip = read(path)

    assert drawn_indices(clip) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert clip.notices == ()
    assert clip.details == (f"{str(path)!r} holds 2 videos: the first is taken",)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4", "clip.avi"])
def test_title_that_is_no_text_does_not_hide_the_video(tmp_path, read, name):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caf\u00e9 caf\u00e9"
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuvj420p"
        for index in range(8):
            frame = av.VideoFrame.from_ndarray(drawn(index), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuvj420p")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    assert "é".encode() in content
    path.write_bytes(content.replace("é".encode(), b"\xe9\xff"))

    assert drawn_indices(read(path)) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_cover_art_beside_a_video_is_not_taken_for_it(tmp_path, read):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        art = container.add_stream("mjpeg", rate=1)
        art.disposition = av.stream.Disposition.attached_pic
        for one, form in ((stream, "yuv420p"), (art, "yuvj420p")):
            one.width, one.height, one.pix_fmt = 80, 64, form
        container.mux(art.encode(av.VideoFrame.from_ndarray(drawn(300), format="rgb24").reformat(format="yuvj420p")))
        container.mux(art.encode(None))
        for index in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(index), format="rgb24")))
        container.mux(stream.encode(None))

    clip = read(path)

    assert drawn_indices(clip) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert clip.details == ()


@pytest.mark.parametrize("height", [1, 3])
def test_video_of_very_few_lines_is_read_as_any(tmp_path, read, pixels, height):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 100, height, "yuv444p"
        for index in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(index, 100, 64)[:height], format="rgb24")))
        container.mux(stream.encode(None))

    clip = read(path)

    assert clip.pixels.shape == (8, pixels.crop_side, pixels.crop_side, 3)


@pytest.mark.parametrize("name", ["notes.mp4", "notes.avi", "notes.txt", "notes"])
def test_text_is_no_video_whatever_its_name(tmp_path, reader, name):
    path = tmp_path / name
    path.write_text("Dear diary,\n" * 100)

    with pytest.raises(MediaError, match=r"notes.*' is no video or image that can be read"):
        reader.find(str(path))
