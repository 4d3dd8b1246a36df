"""Which frame is on display: each until the next one, and the last until the end of the clip."""

import json
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from in_process import vllava
from media_files import (
    MJPEG,
    MPEG4,
    VP9,
    Recipe,
    grey,
    indices_of,
    remux,
    truncate,
    write_animation,
    write_video,
)

from videollava_cli.errors import MediaError
from videollava_cli.sampling import Moments

H264 = Recipe(rate=Fraction(1), options={"preset": "ultrafast", "bf": "3", "g": "4"})
FRAGMENTED = replace(H264, container={"movflags": "frag_keyframe+empty_moov"})
SLOW = {
    "clip.mp4": H264,
    "clip.mov": H264,
    "fragments.mp4": FRAGMENTED,
    "clip.mkv": H264,
    "clip.ts": H264,
    "clip.flv": H264,
    "flv1.flv": Recipe("flv", Fraction(1)),
    "clip.avi": H264,
    "clip.nut": H264,
    "clip.asf": Recipe("wmv2", Fraction(1)),
    "clip.webm": replace(VP9, rate=Fraction(1)),
    "clip.ogv": Recipe("libvpx", Fraction(1), {"deadline": "realtime", "cpu-used": "8"}),
    "clip.ivf": replace(VP9, rate=Fraction(1)),
    "mjpeg.avi": replace(MJPEG, rate=Fraction(1)),
    "mpeg4.mp4": replace(MPEG4, rate=Fraction(1)),
}


@pytest.fixture
def read_at(reader, pixels):
    """Read the frame on display at a moment."""

    def read_at(path, moment):
        clip = reader.read(reader.find(str(path)), pixels, sampling=Moments((0.0,) * 7 + (moment,)))
        assert indices_of(clip)[:7] == [0] * 7
        assert clip.stamps[7].index == indices_of(clip)[7]
        return clip.stamps[7].index

    return read_at


@pytest.mark.parametrize("name", SLOW)
def test_frame_is_on_display_until_the_next_one_and_the_last_until_the_end(tmp_path, read_at, name):
    path = write_video(tmp_path / name, 10, SLOW[name])

    assert [read_at(path, moment) for moment in (0.99, 3.2, 8.99, 9.0, 9.5, 9.95)] == [0, 3, 8, 9, 9, 9]
    with pytest.raises(MediaError, match=r"has no frame at 10\.5 s: its last frame is at 9\.00 s$"):
        read_at(path, 10.5)


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize(("start", "end", "shown"), [(3.2, 3.9, 3), (9.5, None, 9), (9.2, 9.9, 9)])
def test_window_between_two_frames_gives_the_one_on_display_and_says_so(tmp_path, read, name, start, end, shown):
    path = write_video(tmp_path / name, 10, SLOW[name])

    clip = read(path, start, end)

    assert indices_of(clip) == [stamp.index for stamp in clip.stamps] == [shown] * 8
    between = f"{start} s and {'the end' if end is None else f'{end} s'}"
    expected = f"begins between {between}: the one that is shown then, at {shown}.00 s, is repeated to make 8"
    assert clip.notices == (f"no frame of {str(path)!r} {expected}",)


@pytest.mark.parametrize("name", SLOW)
def test_window_behind_the_end_is_refused(tmp_path, read, name):
    path = write_video(tmp_path / name, 10, SLOW[name])

    with pytest.raises(MediaError, match=r"has no frames between the times asked for: its last frame is at 9\.00 s$"):
        read(path, 10.5, 11)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_frames_of_an_animation_are_on_display_as_long_as_they_last(tmp_path, read, read_at, suffix):
    durations = [500, 100, 2000, 400, 3000]
    options = {"lossless": True} if suffix == "webp" else {}
    path = write_animation(tmp_path / f"clip.{suffix}", 5, durations, **options)

    assert [read_at(path, moment) for moment in (0.4, 0.55, 2.5, 2.9, 3.1, 5.9)] == [0, 1, 2, 3, 4, 4]
    assert indices_of(read(path, 0.7, 2.5)) == [2] * 8
    assert indices_of(read(path, 4.0)) == [4] * 8
    with pytest.raises(MediaError, match=r"has no frame at 6\.1 s: its last frame is at 3\.00 s$"):
        read_at(path, 6.1)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.ts", "clip.avi", "clip.webm"])
def test_only_frame_of_a_clip_is_on_display_until_its_end(tmp_path, read, read_at, name):
    path = write_video(tmp_path / name, 1, SLOW[name])

    assert [read_at(path, moment) for moment in (0.0, 0.5, 0.95)] == [0, 0, 0]
    assert indices_of(read(path, 0.5)) == [0] * 8
    with pytest.raises(MediaError, match=r"has no frame at 1\.5 s: its last frame is at 0\.00 s$"):
        read_at(path, 1.5)


def changed(seconds_of, last_duration):
    """Give packets other times, and the frame shown last a duration."""

    def change(packets):
        base = packets[0].time_base
        order = sorted(packet.pts for packet in packets)
        delay = max(0, order[0] - packets[0].dts)
        for packet in packets:
            index = order.index(packet.pts)
            packet.pts = round(seconds_of(index) / base)
            packet.duration = round((last_duration if index == len(order) - 1 else 1) / base)
        for packet, pts in zip(packets, sorted(packet.pts for packet in packets), strict=True):
            packet.dts = pts - delay
        return packets

    return change


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.webm"])
@pytest.mark.parametrize("first", [0, 100])
def test_last_frame_of_a_varying_rate_is_on_display_as_long_as_it_lasts(tmp_path, read, read_at, name, first):
    plain = write_video(tmp_path / "plain.mkv", 5, SLOW["clip.webm" if name == "clip.webm" else "mpeg4.mp4"])
    times = [0, 0.5, 3, 3.5, 6]
    path = remux(plain, tmp_path / name, changed(lambda index: first + times[index], 4))

    assert [read_at(path, moment) for moment in (0.4, 2.9, 3.4, 5.9, 6.1, 9.9)] == [0, 1, 2, 3, 4, 4]
    assert indices_of(read(path, 4, 5.5)) == [3] * 8
    with pytest.raises(MediaError, match=r"has no frame at 10\.5 s: its last frame is at 6\.00 s$"):
        read_at(path, 10.5)


def test_last_frame_stays_on_display_while_the_sound_of_an_mp4_file_goes_on(tmp_path, read_at):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=1)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for index in range(3):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(grey(index), format="rgb24")))
        for _ in range(5):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 8000
            container.mux(sound.encode(silence))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))

    assert [read_at(path, moment) for moment in (2.5, 4.5)] == [2, 2]
    with pytest.raises(MediaError, match=r"has no frame at 5\.5 s"):
        read_at(path, 5.5)


def test_clip_that_was_cut_off_shows_nothing_in_the_part_that_is_missing(tmp_path, read_at):
    recipe = replace(MJPEG, rate=Fraction(1), container={"movflags": "faststart"})
    path = truncate(write_video(tmp_path / "clip.mp4", 10, recipe), 0.6)

    with pytest.raises(MediaError, match=r"has no frame at 9\.5 s: its last frame is at [345]\.00 s$"):
        read_at(path, 9.5)


def test_command_shows_the_frames_on_display_and_tells_of_a_window_between_two(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 10, H264)

    moments = vllava("frames", path, "-m", "tiny", "--at", "0,1,2,3,4,5,6,9.5", "--json")
    window = vllava("frames", path, "-m", "tiny", "--start", 3.2, "--end", 3.9, "--json")

    assert [frame["index"] for frame in json.loads(moments.stdout)["frames"]] == [0, 1, 2, 3, 4, 5, 6, 9]
    assert [frame["index"] for frame in json.loads(window.stdout)["frames"]] == [3] * 8
    assert (moments.status, moments.stderr, window.status) == (0, "", 0)
    assert "begins between 3.2 s and 3.9 s: the one that is shown then, at 3.00 s, is repeated" in window.stderr
