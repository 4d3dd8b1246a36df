"""Frames and times of clips whose clocks are odd: late, uneven, doubled, cut by edits, or made up."""

import struct
from dataclasses import replace
from fractions import Fraction

import av
import pytest
from media_files import Recipe, as_from_avi, damage_packet, drawn, drawn_indices, remux, write_drawn
from reference import assert_exact, decode_all, read_with

from videollava_cli.errors import MediaError
from videollava_cli.sampling import Moments, Window

NUM_FRAMES = 50
H264 = Recipe(options={"preset": "ultrafast", "bf": "3", "g": "12"})
HEVC = Recipe("libx265", options={"preset": "ultrafast", "x265-params": "log-level=none:pools=1:keyint=12:bframes=3"})
MPEG4 = Recipe("mpeg4", options={"qscale": "3", "flags": "+qscale", "bf": "2", "g": "12"})
MPEG2 = replace(MPEG4, codec="mpeg2video")
MJPEG = Recipe("mjpeg", pix_fmt="yuvj420p", options={"qscale": "3", "flags": "+qscale"})
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
WINDOWS = [Window(), Window(0.55, 2.05), Window(3.05, None)]


def shifted(seconds):
    """Let a clip begin later."""

    def change(packets):
        for packet in packets:
            ticks = round(seconds / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return packets

    return change


def slowed(packets):
    """Let every other ten frames last three times as long."""
    frame = round(1 / 10 / packets[0].time_base)

    def stretched(ticks):
        tens, rest = divmod(ticks, 10 * frame)
        return tens * 20 * frame + rest * (1 if tens % 2 == 0 else 3) - (tens % 2) * 10 * frame

    for packet in packets:
        packet.pts, packet.dts = stretched(packet.pts), stretched(packet.dts)
    return packets


def in_decoding_order(packets):
    """Lose the times of presentation, as programs do that copy AVI files packet by packet."""
    frame = round(1 / 10 / packets[0].time_base)
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = number * frame
    return packets


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.flv", "fragments.mp4"])
def test_clip_that_begins_late_is_counted_from_its_first_frame(tmp_path, pixels, name):
    plain = write_drawn(tmp_path / "plain.mp4", NUM_FRAMES, H264)
    late = remux(plain, tmp_path / name, shifted(100), FRAGMENTS if name.startswith("frag") else {})
    reference = decode_all(late, pixels)

    clip = read_with(1, reference, pixels, Window(1.95, 2.75))

    assert_exact(clip, reference, [20, 21, 22, 23, 24, 25, 26, 27])


@pytest.mark.parametrize("sampling", [Window(), Moments((0.05, 0.95, 1.05, 1.25, 1.35, 3.85, 3.95, 4.05))])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.webm", "clip.ts", "clip.flv", "frag.mp4"])
def test_frames_of_uneven_duration_are_counted_as_frames_and_found_by_their_times(tmp_path, pixels, name, sampling):
    recipe = Recipe("libvpx-vp9", options={"cpu-used": "8", "deadline": "realtime", "g": "12"})
    plain = write_drawn(tmp_path / "plain.mp4", NUM_FRAMES, recipe if name.endswith("webm") else H264)
    reference = decode_all(remux(plain, tmp_path / name, slowed, FRAGMENTS if name.startswith("f") else {}), pixels)

    clip = read_with(1, reference, pixels, sampling)

    by_time = [0, 9, 10, 10, 11, 19, 19, 20]
    assert_exact(clip, reference, [0, 6, 12, 18, 25, 31, 37, 43] if isinstance(sampling, Window) else by_time)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("clip.mp4", H264),
        ("clip.mov", H264),
        ("clip.flv", H264),
        ("clip.mkv", H264),
        ("clip.nut", H264),
        ("frag.mp4", H264),
        ("hevc.mp4", HEVC),
        ("mpeg4.mp4", MPEG4),
        ("mpeg2.mp4", MPEG2),
        ("clip.asf", H264),
    ],
)
def test_timestamps_that_tell_the_order_of_decoding_are_not_believed(tmp_path, pixels, name, recipe):
    plain = write_drawn(tmp_path / "plain.mp4", NUM_FRAMES, recipe)
    container = FRAGMENTS if name.startswith("frag") else {}
    reference = decode_all(remux(plain, tmp_path / name, in_decoding_order, container), pixels)

    clip = read_with(1, reference, pixels, Window())

    assert drawn_indices(clip) == [0, 6, 12, 18, 25, 31, 37, 43]
    assert_exact(clip, reference, [0, 6, 12, 18, 25, 31, 37, 43])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.flv", "clip.ts", "clip.nut", "frag.mp4"])
@pytest.mark.parametrize("delay", [1, 3])
def test_timestamps_that_tell_the_order_of_decoding_later_are_not_believed(tmp_path, pixels, name, delay):
    plain = write_drawn(tmp_path / "plain.mp4", NUM_FRAMES, H264)
    container = FRAGMENTS if name.startswith("frag") else {}
    late = remux(plain, tmp_path / name, lambda packets: as_from_avi(packets, delay), container)
    reference = decode_all(late, pixels)

    clip = read_with(1, reference, pixels, Window())

    assert drawn_indices(clip) == [0, 6, 12, 18, 25, 31, 37, 43]
    assert_exact(clip, reference, [0, 6, 12, 18, 25, 31, 37, 43])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv"])
@pytest.mark.parametrize("recipe", [H264, HEVC, MPEG4, MPEG2])
def test_true_timestamps_in_decoding_order_spare_what_no_wanted_frame_needs(tmp_path, pixels, name, recipe):
    x265 = recipe.options.get("x265-params", "").replace("bframes=3", "bframes=0")
    options = {**recipe.options, **({"x265-params": x265} if x265 else {"bf": "0"})}
    plain = write_drawn(tmp_path / "plain.mp4", NUM_FRAMES, replace(recipe, options=options))
    path = remux(plain, tmp_path / name, as_from_avi)
    reference = decode_all(path, pixels)
    for number in range(2, 30):
        damage_packet(path, number)

    clip = read_with(1, reference, pixels, Window(3.95, 4.75))

    assert clip.notices == ()
    assert_exact(clip, reference, [40, 41, 42, 43, 44, 45, 46, 47])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
@pytest.mark.parametrize("recipe", [H264, HEVC, MPEG4])
def test_timestamps_of_which_a_part_tells_the_order_of_decoding_are_not_believed(tmp_path, pixels, name, recipe):
    def change(packets):
        second = next(i for i, packet in enumerate(packets) if i > 20 and packet.is_keyframe)
        first_pts, delay = packets[second].pts, packets[second].pts - packets[second].dts
        for packet in packets[second:]:
            packet.pts = packet.dts + delay
        assert packets[second].pts == first_pts
        return packets

    plain = write_drawn(tmp_path / "plain.mp4", NUM_FRAMES, recipe)
    reference = decode_all(remux(plain, tmp_path / name, change), pixels)

    clip = read_with(3, reference, pixels, Window())

    assert_exact(clip, reference, [0, 6, 12, 18, 25, 31, 37, 43])


def test_matroska_file_in_the_manner_of_avi_gives_the_right_frames(tmp_path, pixels):
    header = struct.pack("<IiiHH4sIiiII", 40, 80, 64, 1, 24, b"H264", 80 * 64 * 3, 0, 0, 0, 0)  # BITMAPINFOHEADER
    plain = write_drawn(tmp_path / "plain.avi", NUM_FRAMES, H264)
    path = tmp_path / "clip.mkv"
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.codec_context.extradata = header
        for packet in in_decoding_order([packet for packet in old.demux(video=0) if packet.size]):
            packet.stream = stream
            new.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MS/VFW/FOURCC"))
    reference = decode_all(path, pixels)

    clip = read_with(1, reference, pixels, Window())

    assert drawn_indices(clip) == [0, 6, 12, 18, 25, 31, 37, 43]


def begun_before(num_frames):
    """Let a clip begin so many frames after its first packets, which players decode and do not show."""

    def change(packets):
        ticks = round(num_frames / 10 / packets[0].time_base)
        for packet in packets:
            packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
        return packets

    return change


@pytest.mark.parametrize("sampling", WINDOWS)
@pytest.mark.parametrize(("recipe", "hidden"), [(H264, 5), (H264, 17), (HEVC, 17), (MPEG4, 14), (MJPEG, 17)])
def test_frames_that_an_edit_list_hides_do_not_count(tmp_path, pixels, sampling, recipe, hidden):
    plain = write_drawn(tmp_path / "plain.mp4", NUM_FRAMES, recipe)
    cut = remux(plain, tmp_path / "clip.mp4", begun_before(hidden), {"avoid_negative_ts": "disabled"})
    reference = decode_all(cut, pixels)
    assert len(reference.pixels) == NUM_FRAMES - hidden
    shown = [i for i in range(NUM_FRAMES - hidden) if (sampling.start or 0) <= i / 10 < (sampling.end or 99)]

    clip = read_with(1, reference, pixels, sampling)

    assert_exact(clip, reference, [shown[k * len(shown) // 8] for k in range(8)])


def with_edits(path, *edits):
    """Give an mp4 file, whose header stands at its end, another edit list: duration and start of each part."""
    content = bytearray(path.read_bytes())
    box = content.index(b"elst") - 4
    size = int.from_bytes(content[box : box + 4], "big")
    entries = b"".join(struct.pack(">Iihh", duration, start, 1, 0) for duration, start in edits)
    table = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    content[box : box + size] = table
    for parent in (b"moov", b"trak", b"edts"):
        place = content.rindex(parent, 0, box + 4) - 4
        old = int.from_bytes(content[place : place + 4], "big")
        content[place : place + 4] = (old + len(table) - size).to_bytes(4, "big")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "edits",
    [
        [(3000, 1.2)],
        [(1000, 0.7), (2000, 2.4)],
        [(1500, 2.5), (1500, 0.5)],
        [(500, None), (2000, 1.3)],
        [(1000, 1.0), (1000, 1.0), (1000, 1.0)],
    ],
)
@pytest.mark.parametrize("recipe", [H264, MJPEG])
def test_edit_lists_that_cut_repeat_and_delay_give_what_decoding_all_gives(tmp_path, pixels, recipe, edits):
    path = write_drawn(tmp_path / "clip.mp4", NUM_FRAMES, replace(recipe, container={"movie_timescale": "1000"}))
    if b"elst" not in path.read_bytes():
        pytest.fail("the muxer wrote no edit list")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        ticks, delay = int(1 / stream.time_base), 2048 if recipe is H264 else 0
    reference = decode_all(
        with_edits(path, *[(length, -1 if t is None else round(t * ticks) + delay) for length, t in edits]), pixels
    )

    clip = read_with(1, reference, pixels, Window())

    total = len(reference.pixels)
    assert_exact(clip, reference, [k * total // 8 for k in range(8)])


@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4", "clip.avi"])
def test_frames_that_grow_in_mid_stream_are_shrunk_each_on_its_own(tmp_path, pixels, name):
    small = write_drawn(tmp_path / "small.mkv", 20, MJPEG)
    path = tmp_path / name
    with av.open(str(small)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        large = av.CodecContext.create("mjpeg", "w")
        large.width, large.height, large.pix_fmt, large.time_base = 160, 128, "yuvj420p", Fraction(1, 10)
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for packet in packets[:10]:
            packet.stream = stream
            new.mux(packet)
        for number in range(10, 20):
            frame = av.VideoFrame.from_ndarray(drawn(number, 160, 128), format="rgb24").reformat(format="yuvj420p")
            frame.pts = number
            for packet in large.encode(frame):
                packet.pts = packet.dts = packets[number].pts
                packet.duration = packets[number].duration
                packet.time_base, packet.stream = packets[number].time_base, stream
                new.mux(packet)
    reference = decode_all(path, pixels)

    clip = read_with(1, reference, pixels, Window())

    assert_exact(clip, reference, [0, 2, 5, 7, 10, 12, 15, 17])
    assert drawn_indices(clip) == [0, 2, 5, 7, 10, 12, 15, 17]


def test_moment_behind_the_last_frame_is_refused_with_the_time_of_that_frame(tmp_path, reader, pixels):
    found = reader.find(str(write_drawn(tmp_path / "clip.mp4", 10, H264)))

    with pytest.raises(MediaError, match=r"clip\.mp4' has no frame at 1\.5 s: its last frame is at 0\.90 s$"):
        reader.read(found, pixels, sampling=Moments((0, 0, 0, 0, 0, 0, 0, 1.5)))
