"""Videos turned and mirrored as FFmpeg shows them, whichever way their orientation is written down."""

import struct
from dataclasses import replace
from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
from media_files import MJPEG, MPEG4, UPRIGHT_CORNERS, Recipe, corner_colors, corners, remux, write_frames
from PIL import Image, ImageOps

from videollava_cli.preprocessing import resize_frame, to_model

NUM_FRAMES = 40
H264 = Recipe(options={"preset": "ultrafast", "bf": "3", "g": "12"})
HEVC = Recipe("libx265", options={"preset": "ultrafast", "x265-params": "log-level=none:pools=1:keyint=12:bframes=3"})
# The numbers a, b, c, d of a display matrix, and how FFmpeg then shows a picture: the filters that its -autorotate puts
# in (fftools/ffmpeg_filter.c), in numpy's words.
ORIENTATIONS = {
    (1, 0, 0, 1): lambda rgb: rgb,
    (-1, 0, 0, 1): np.fliplr,  # hflip
    (1, 0, 0, -1): np.flipud,  # vflip
    (-1, 0, 0, -1): lambda rgb: np.fliplr(np.flipud(rgb)),
    (0, 1, 1, 0): lambda rgb: rgb.transpose(1, 0, 2),  # transpose=cclock_flip
    (0, 1, -1, 0): lambda rgb: np.rot90(rgb, -1),  # transpose=clock
    (0, -1, 1, 0): np.rot90,  # transpose=cclock
    (0, -1, -1, 0): lambda rgb: np.rot90(rgb, -1)[::-1],  # transpose=clock_flip
}


def decoded(path):
    """Decode a file from its beginning, and turn nothing."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def assert_shows(clip, pixels, frames, turned):
    """Make sure that a clip has its frames turned, to the last bit."""
    shown = [to_model(np.ascontiguousarray(turned(frames[stamp.index])), pixels, resize_frame) for stamp in clip.stamps]
    assert np.array_equal(clip.pixels, shown)


def set_display_matrix(path, a, b, c, d):
    """Write a display matrix into the track header of an mp4 or mov file (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, *(a, b, 0, c, d, 0, 0, 0, 1 << 30))
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("clip.mp4", 1 << 16),
        ("clip.mov", 1 << 16),
        ("clip.mkv", 1 << 16),
        ("mpeg4.mp4", 3 << 15),
        ("mjpeg.mov", 1 << 16),
        ("hevc.mp4", 1 << 16),
    ],
)
@pytest.mark.parametrize("matrix", ORIENTATIONS)
@pytest.mark.parametrize("start", [None, 2.55])
def test_clip_is_turned_and_mirrored_as_its_track_says(tmp_path, read, pixels, name, scale, matrix, start):
    recipe = {"clip": H264, "mpeg4": MPEG4, "mjpeg": MJPEG, "hevc": HEVC}[name.partition(".")[0]]
    path = write_frames(tmp_path / name.replace("mkv", "mp4"), [corners()] * NUM_FRAMES, recipe)
    frames = decoded(path)
    set_display_matrix(path, *(scale * number for number in matrix))
    if name.endswith("mkv"):  # where FFmpeg writes the orientation as the pose of a projection
        path = remux(path, tmp_path / name, list)

    clip = read(path, start)

    assert_shows(clip, pixels, frames, ORIENTATIONS[matrix])


def with_orientation(path, target, *, flips, quarters, only=None):
    """Copy a clip, and tell its orientation in SEI messages in front of some pictures (H.264 D.1.27, H.265 D.2.17)."""
    is_hevc = path.name.startswith("hevc")
    bits = f"0{flips[0]:b}{flips[1]:b}{quarters << 14:016b}" + ("11" if is_hevc else "01001")
    body = bytes((47, 3)) + int(bits.ljust(24, "0"), 2).to_bytes(3, "big") + b"\x80"
    unit = (b"\x4e\x01" if is_hevc else b"\x06") + body.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\1", b"\0\0\3\1")

    def change(packets):
        for number, packet in enumerate(packets):
            content = bytes(packet)
            if only is None or number in only:
                content = len(unit).to_bytes(4, "big") + unit + content
            changed = av.Packet(content)
            changed.pts, changed.dts, changed.duration = packet.pts, packet.dts, packet.duration
            changed.time_base, changed.is_keyframe = packet.time_base, packet.is_keyframe
            yield changed

    return remux(path, target, change)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("flips", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("quarters", range(4))
def test_clip_is_turned_and_mirrored_as_its_pictures_say(tmp_path, read, pixels, suffix, codec, flips, quarters):
    recipe = HEVC if codec == "hevc" else H264
    plain = write_frames(tmp_path / f"{codec}.mp4", [corners()] * NUM_FRAMES, recipe)
    path = with_orientation(plain, tmp_path / f"clip.{suffix}", flips=flips, quarters=quarters)

    def turned(rgb):
        mirrored = rgb[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
        return np.rot90(mirrored, quarters)

    for start in (None, 2.55):
        assert_shows(read(path, start), pixels, decoded(plain), turned)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("start", [None, 1.25, 2.55])
def test_orientation_that_the_first_picture_tells_lasts_where_ffmpegs_decoder_keeps_it(
    tmp_path, read, pixels, suffix, start
):
    plain = write_frames(tmp_path / "hevc.mp4", [corners()] * NUM_FRAMES, HEVC)
    path = with_orientation(plain, tmp_path / f"clip.{suffix}", flips=(1, 0), quarters=0, only={0})

    clip = read(path, start)

    assert_shows(clip, pixels, decoded(plain), np.fliplr)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_orientation_of_single_pictures_is_theirs_alone_where_ffmpegs_decoder_drops_it(tmp_path, read, pixels, suffix):
    plain = write_frames(tmp_path / "h264.mp4", [corners()] * 24, replace(H264, options={**H264.options, "bf": "0"}))
    path = with_orientation(plain, tmp_path / f"clip.{suffix}", flips=(1, 0), quarters=0, only={0, 12})

    clip = read(path)

    shown = [np.fliplr(frame) if index in (0, 12) else frame for index, frame in enumerate(decoded(plain))]
    assert_shows(clip, pixels, shown, lambda rgb: rgb)


@pytest.mark.parametrize("suffix", ["avi", "mov", "mkv"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_clip_of_photographs_is_turned_and_mirrored_as_their_exif_tags_say(tmp_path, read, pixels, suffix, orientation):
    exif, photo, path = Image.Exif(), BytesIO(), tmp_path / f"clip.{suffix}"
    exif[0x0112] = orientation
    Image.fromarray(corners()).save(photo, "JPEG", exif=exif, quality=95)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(8):
            packet = av.Packet(photo.getvalue())
            packet.pts = packet.dts = number
            packet.time_base, packet.duration, packet.is_keyframe = Fraction(1, 10), 1, True
            packet.stream = stream
            container.mux(packet)

    clip = read(path)

    upright = to_model(np.array(ImageOps.exif_transpose(Image.open(photo))), pixels, resize_frame)
    assert np.abs(clip.pixels.astype(int) - upright).mean() < 4  # two decoders of JPEG
    assert {corner_colors(frame) for frame in clip.pixels} == {corner_colors(upright)}


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (0, 0, 0, 1 << 16), (1 << 16, 1 << 15, -(1 << 15), 1 << 16)])
def test_matrix_of_no_right_angle_leaves_the_clip_nearly_as_it_is(tmp_path, read, matrix):
    path = write_frames(tmp_path / "clip.mp4", [corners()] * 3)
    set_display_matrix(path, *matrix)

    assert [corner_colors(frame) for frame in read(path).pixels] == [UPRIGHT_CORNERS] * 8
