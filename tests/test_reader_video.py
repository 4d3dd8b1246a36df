"""Eight frames of a video: the right ones, upright, with their index and time."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from media_files import (
    MJPEG,
    MPEG4,
    UPRIGHT_CORNERS,
    VP9,
    Recipe,
    corner_colors,
    corners,
    damage_packet,
    indices_of,
    truncate,
    write_frames,
    write_sound,
    write_video,
)

from videollava_cli.errors import MediaError
from videollava_cli.media import MediaKind

B_FRAMES = Recipe(options={"bf": "3", "g": "12", "preset": "ultrafast"})
FAST_START = replace(B_FRAMES, container={"movflags": "faststart"})


def header_count(path):
    with av.open(str(path)) as container:
        return container.streams.video[0].frames


def has_b_frames(path):
    with av.open(str(path)) as container:
        return PictureType.B in {frame.pict_type for frame in container.decode(video=0)}


def damage_packets(path, numbers):
    for number in numbers:
        damage_packet(path, number)
    return path


def stamps_of(clip):
    return [(stamp.index, stamp.seconds) for stamp in clip.stamps]


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("clip.mp4", B_FRAMES),
        ("clip.mov", B_FRAMES),
        ("clip.mkv", B_FRAMES),
        ("clip.ts", B_FRAMES),
        ("clip.flv", B_FRAMES),
        ("clip.avi", MPEG4),
        ("clip.webm", VP9),
        ("clip.nut", MPEG4),
        ("clip.mpg", Recipe("mpeg2video", Fraction(25))),
    ],
)
def test_clip_gives_the_uniformly_sampled_frames_with_their_index_and_time(tmp_path, read, name, recipe):
    path = write_video(tmp_path / name, 20, recipe)

    clip = read(path)

    chosen = [0, 2, 5, 7, 10, 12, 15, 17]
    assert indices_of(clip) == chosen
    assert [stamp.index for stamp in clip.stamps] == chosen
    assert [stamp.seconds for stamp in clip.stamps] == pytest.approx([k / recipe.rate for k in chosen], abs=2e-3)
    assert clip.notices == ()


def test_frames_count_in_presentation_order_where_b_frames_reorder_them(tmp_path, read):
    path = write_video(tmp_path / "clip.mp4", 24, B_FRAMES)
    assert has_b_frames(path)

    clip = read(path)

    assert indices_of(clip) == [0, 3, 6, 9, 12, 15, 18, 21]


@pytest.mark.parametrize(("name", "recipe"), [("clip.webm", VP9), ("clip.mkv", B_FRAMES), ("clip.ts", B_FRAMES)])
def test_frames_are_counted_where_the_header_does_not_know_their_number(tmp_path, read, name, recipe):
    path = write_video(tmp_path / name, 33, recipe)
    assert header_count(path) == 0

    clip = read(path)

    assert indices_of(clip) == [0, 4, 8, 12, 16, 20, 24, 28]


def test_frames_have_the_models_side(tmp_path, read, pixels):
    clip = read(write_video(tmp_path / "clip.mp4", 8))

    assert clip.pixels.shape == (8, pixels.crop_side, pixels.crop_side, 3)


def test_video_is_found_as_a_video_before_a_frame_is_read(tmp_path, reader):
    path = write_video(tmp_path / "clip.mp4", 1)

    found = reader.find(str(path))

    assert (found.kind, found.name) == (MediaKind.VIDEO, str(path))


def test_kind_is_decided_by_content_where_a_video_is_named_as_a_picture(tmp_path, read):
    path = write_video(tmp_path / "clip.mp4", 8).rename(tmp_path / "picture.jpg")

    assert read(path).kind is MediaKind.VIDEO


@pytest.mark.parametrize(
    ("num_frames", "chosen"), [(1, [0] * 8), (3, [0, 0, 0, 1, 1, 1, 2, 2]), (7, [0, 0, 1, 2, 3, 4, 5, 6])]
)
def test_clip_shorter_than_eight_frames_repeats_frames_and_says_so(tmp_path, read, num_frames, chosen):
    path = write_video(tmp_path / "clip.mp4", num_frames)

    clip = read(path)

    assert indices_of(clip) == chosen
    word = "frame" if num_frames == 1 else "frames"
    assert clip.notices == (f"{str(path)!r} has {num_frames} {word} to sample: repeated to make 8",)


@pytest.mark.parametrize(
    ("start", "end", "chosen"),
    [
        (1.0, None, [10, 11, 13, 14, 16, 18, 19, 21]),
        (None, 0.8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (0.5, 2.1, [5, 7, 9, 11, 13, 15, 17, 19]),
        (2.1, 99.0, [21, 21, 21, 21, 22, 22, 22, 22]),
    ],
)
def test_window_samples_from_its_start_up_to_its_end(tmp_path, read, start, end, chosen):
    path = write_video(tmp_path / "clip.mp4", 23, B_FRAMES)

    clip = read(path, start, end)

    assert indices_of(clip) == chosen
    assert stamps_of(clip) == [(k, pytest.approx(k / 10)) for k in chosen]


def test_window_counts_from_the_first_frame_where_the_file_clock_starts_later(tmp_path, read):
    path = write_video(tmp_path / "clip.ts", 20, B_FRAMES)

    clip = read(path, 0.4, 1.2)

    assert indices_of(clip) == [4, 5, 6, 7, 8, 9, 10, 11]


def test_window_behind_the_last_frame_is_refused_with_the_time_of_that_frame(tmp_path, read):
    path = write_video(tmp_path / "clip.mp4", 10)

    with pytest.raises(MediaError, match=r"no frames between the times asked for: its last frame is at 0\.90 s"):
        read(path, 5.0, 6.0)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("clip.mp4", B_FRAMES),
        ("clip.mov", B_FRAMES),
        ("clip.mkv", B_FRAMES),
        ("clip.webm", replace(VP9, options={**VP9.options, "g": "12"})),
    ],
)
def test_late_window_does_not_decode_what_lies_before_it(tmp_path, read, name, recipe):
    path = damage_packets(write_video(tmp_path / name, 60, recipe), range(1, 36))

    clip = read(path, 5.0, 5.8)

    assert indices_of(clip) == [50, 51, 52, 53, 54, 55, 56, 57]
    assert [stamp.index for stamp in clip.stamps] == [50, 51, 52, 53, 54, 55, 56, 57]
    assert clip.notices == ()


@pytest.mark.parametrize(("name", "recipe"), [("clip.mp4", B_FRAMES), ("clip.mkv", B_FRAMES), ("clip.avi", MJPEG)])
def test_nothing_is_decoded_behind_the_last_wanted_frame(tmp_path, read, name, recipe):
    path = damage_packets(write_video(tmp_path / name, 60, recipe), range(40, 60))

    clip = read(path, None, 0.8)

    assert indices_of(clip) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert clip.notices == ()


def test_damage_inside_a_late_window_is_passed_over_and_told(tmp_path, read):
    path = damage_packet(write_video(tmp_path / "clip.mp4", 60, MJPEG), 52)

    clip = read(path, 5.0)

    assert indices_of(clip) == [50, 51, 53, 54, 55, 56, 57, 58]
    assert clip.notices == (f"{str(path)!r} is damaged (1 packet could not be decoded): the frames come from the rest",)


def test_damage_before_the_window_counts_where_everything_is_decoded(tmp_path, read):
    path = damage_packet(write_video(tmp_path / "clip.avi", 60, Recipe(options={"g": "10", "bf": "0"})), 3)

    clip = read(path, 5.0)

    assert clip.notices == (f"{str(path)!r} is damaged (1 packet could not be decoded): the frames come from the rest",)


def write_twins(path, num_frames, twin):
    """Write a video one frame of which has the timestamp of the frame before it."""
    plain = write_video(path.with_name(f"plain-{path.name}"), num_frames, MJPEG)
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        packets[twin].pts = packets[twin].dts = packets[twin - 1].pts
        for packet in packets:
            packet.stream = stream
            target.mux(packet)
    with av.open(str(path)) as container:
        assert len({packet.pts for packet in container.demux(video=0) if packet.size}) == num_frames - 1
    return path


def test_frames_that_share_a_timestamp_are_counted_one_by_one(tmp_path, read):
    path = write_twins(tmp_path / "clip.mkv", 40, twin=31)

    clip = read(path, 3.0)

    assert indices_of(clip) == [stamp.index for stamp in clip.stamps] == [30, 31, 32, 33, 35, 36, 37, 38]


def test_frame_rate_that_is_no_whole_number_gives_true_times(tmp_path, read):
    path = write_video(tmp_path / "clip.mp4", 16, replace(B_FRAMES, rate=Fraction(30000, 1001)))

    clip = read(path)

    assert stamps_of(clip) == [(2 * k, pytest.approx(2 * k * 1001 / 30000, abs=1e-4)) for k in range(8)]


@pytest.mark.parametrize(
    ("rotation", "colors"),
    [
        (0, UPRIGHT_CORNERS),
        (90, ("green", "white", "red", "blue")),
        (180, ("white", "blue", "green", "red")),
        (-90, ("blue", "red", "white", "green")),
    ],
)
def test_rotation_of_a_phone_clip_is_applied(tmp_path, read, rotation, colors):
    path = write_frames(tmp_path / "clip.mp4", [corners()] * 3, Recipe(rotation=rotation))

    clip = read(path)

    assert [corner_colors(frame) for frame in clip.pixels] == [colors] * 8


@pytest.mark.parametrize(("suffix", "only"), [("m4a", "audio"), ("mkv", "audio"), ("ts", "audio")])
def test_file_without_a_video_stream_is_refused_with_what_it_holds(tmp_path, reader, suffix, only):
    path = write_sound(tmp_path / f"sound.{suffix}")

    with pytest.raises(MediaError, match=f"sound.{suffix}' holds no video, only {only}"):
        reader.find(str(path))


def test_cover_art_of_a_sound_file_is_no_video(tmp_path, reader):
    path = write_sound(tmp_path / "song.mp4", cover=True)

    with pytest.raises(MediaError, match=r"song\.mp4' holds no video, only cover art"):
        reader.find(str(path))


def test_text_named_as_a_video_is_refused(tmp_path, reader):
    path = tmp_path / "notes.mp4"
    path.write_text("Dear diary,\n")

    with pytest.raises(MediaError, match=r"notes\.mp4' is no video or image that can be read: it is plain text"):
        reader.find(str(path))


def test_truncated_video_that_kept_its_header_gives_frames_of_its_rest(tmp_path, read):
    whole = write_video(tmp_path / "clip.mp4", 40, replace(MJPEG, container={"movflags": "faststart"}))
    path = truncate(whole, 0.6)

    clip = read(path)

    indices = indices_of(clip)
    assert indices == [stamp.index for stamp in clip.stamps]
    assert indices[0] == 0
    assert 15 < indices[-1] < 24


def test_truncated_video_without_its_header_is_refused(tmp_path, reader):
    path = truncate(write_video(tmp_path / "clip.mp4", 20), 0.6)

    with pytest.raises(MediaError, match=r"clip\.mp4' holds no video: it may be cut off or damaged"):
        reader.find(str(path))


def test_damaged_packet_is_passed_over_and_told(tmp_path, read):
    path = damage_packet(write_video(tmp_path / "clip.mp4", 17, MJPEG), 4)

    clip = read(path)

    assert indices_of(clip) == [0, 2, 5, 7, 9, 11, 13, 15]
    assert [stamp.seconds for stamp in clip.stamps][:3] == [0.0, pytest.approx(0.2), pytest.approx(0.5)]
    assert clip.notices == (f"{str(path)!r} is damaged (1 packet could not be decoded): the frames come from the rest",)


def test_video_of_which_nothing_can_be_decoded_is_refused(tmp_path, read):
    path = write_video(tmp_path / "clip.mp4", 2, MJPEG)
    damage_packet(damage_packet(path, 0), 1)

    with pytest.raises(MediaError, match=r"no frame of .*clip\.mp4' can be decoded \(2 packets could not be decoded\)"):
        read(path)


def test_video_cut_off_before_its_first_frame_is_refused(tmp_path, read):
    path = write_video(tmp_path / "clip.mp4", 8, FAST_START)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 4])

    with pytest.raises(MediaError, match=r"no frame of .*clip\.mp4' can be decoded$"):
        read(path)


def test_video_of_an_unknown_codec_is_refused(tmp_path, reader):
    path = write_video(tmp_path / "clip.mp4", 8)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))

    with pytest.raises(MediaError, match=r"clip\.mp4' holds a video in a format that cannot be decoded$"):
        reader.find(str(path))


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (12000, 12000, "is too large: 12000 x 12000, over 134,217,728 pixels"),
        (30000, 10, "is too narrow: 30000 x 10, beyond 2,000 to 1"),
    ],
)
def test_video_of_a_size_that_would_fill_the_memory_is_refused(tmp_path, reader, width, height, message):
    path = write_video(tmp_path / "clip.avi", 1, Recipe("rawvideo"))
    content = path.read_bytes()
    header = content.index(b"strf") + 12  # after "strf", its size and the header's size stand width and height
    sizes = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    path.write_bytes(content[:header] + sizes + content[header + 8 :])

    with pytest.raises(MediaError, match=message):
        reader.find(str(path))


def test_pixels_that_are_not_square_are_taken_as_they_are(tmp_path, read):
    path = write_frames(tmp_path / "clip.mp4", [corners()] * 8, Recipe(options={"x264-params": "sar=2/1"}))
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == 2

    clip = read(path)

    plain = read(write_frames(tmp_path / "plain.mp4", [corners()] * 8))
    assert np.array_equal(clip.pixels, plain.pixels)


ALPHA = {
    "vp9.webm": ("libvpx-vp9", "yuva420p", {"auto-alt-ref": "0"}),
    "vp8.webm": ("libvpx", "yuva420p", {"auto-alt-ref": "0"}),
    "prores.mov": ("prores_ks", "yuva444p10le", {}),
    "qtrle.mov": ("qtrle", "argb", {}),
    "png.mov": ("png", "rgba", {}),
    "ffv1.mkv": ("ffv1", "yuva420p", {}),
    "grey.mkv": ("ffv1", "ya8", {}),
    "utvideo.avi": ("utvideo", "gbrap", {}),
    "huffyuv.avi": ("huffyuv", "bgra", {}),
    "raw.avi": ("rawvideo", "bgra", {}),
}


def black_with_alpha(path, codec, form, options, alpha):
    """Write eight black frames: the left half has an alpha, the right one is opaque or, if it is 0, has it too."""
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[:, :32, 3], rgba[:, 32:, 3] = alpha
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, form
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=form)))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("alpha", "level"), [(0, 255), (128, 127), (255, 0)])
@pytest.mark.parametrize("name", ALPHA)
def test_transparent_part_of_a_video_lies_over_white(tmp_path, read, name, alpha, level):
    clip = read(black_with_alpha(tmp_path / name, *ALPHA[name], (alpha, 255)))

    left, right = clip.pixels[:, :, :12], clip.pixels[:, :, -12:]
    assert (left.mean(), right.mean()) == (pytest.approx(level, abs=3), pytest.approx(0, abs=3))


@pytest.mark.parametrize(("name", "level"), [("raw.avi", 0), ("huffyuv.avi", 0), ("qtrle.mov", 255), ("png.mov", 255)])
def test_alpha_that_is_zero_everywhere_means_none_in_avi_only(tmp_path, read, name, level):
    assert read(black_with_alpha(tmp_path / name, *ALPHA[name], (0, 0))).pixels.mean() == level


def test_gif_of_a_video_encoder_gives_the_right_frames(tmp_path, read):
    path = write_video(tmp_path / "clip.gif", 20, Recipe("gif", pix_fmt="gray"))

    assert indices_of(read(path)) == [0, 2, 5, 7, 10, 12, 15, 17]
