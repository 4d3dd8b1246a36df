"""The same eight frames that decoding a whole file gives, whatever the container, the codec and the way taken."""

from dataclasses import replace
from fractions import Fraction

import pytest
from media_files import Recipe, as_from_avi, drawn_index, remux, write_drawn
from reference import assert_exact, decode_all, read_with

from videollava_cli.sampling import Moments, Window

HALF = Fraction(1, 2)
NUM_FRAMES = 61  # a prime: no group of pictures ends where the clip does


def x264(parameters="", container=None, **options):
    options = {"preset": "ultrafast", "bf": "3", "g": "12", **options}
    return Recipe(options={**options, "x264-params": parameters}, container=container or {})


def x265(parameters):
    return Recipe("libx265", options={"preset": "ultrafast", "x265-params": f"log-level=none:pools=1:{parameters}"})


H264 = x264()
PYRAMID = x264("b-adapt=0:b-pyramid=normal:ref=4", bf="5")
OPEN_GOP = x264("open-gop=1:keyint=12:min-keyint=12:scenecut=0")
ONE_KEY = x264("scenecut=0", g="1000")
REFRESH = x264("intra-refresh=1:keyint=12", bf="0")
FRAGMENTED = replace(H264, container={"movflags": "frag_keyframe+empty_moov"})
HEVC = x265("keyint=12:min-keyint=12:bframes=3:open-gop=0")
HEVC_OPEN = x265("keyint=12:min-keyint=12:bframes=3:open-gop=1")
HEVC_LAYERS = x265("keyint=12:min-keyint=12:bframes=3:b-pyramid=1:open-gop=0:temporal-layers=3")
VP8 = Recipe("libvpx", options={"deadline": "realtime", "cpu-used": "8", "g": "12"})
VP8_ALT_REF = Recipe("libvpx", options={"cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "25"})
VP9 = Recipe("libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "g": "12"})
VP9_ALT_REF = Recipe("libvpx-vp9", options={"cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16", "g": "25"})
AV1 = Recipe("libsvtav1", options={"preset": "13", "g": "15", "svtav1-params": "lp=1"})
MPEG4 = Recipe("mpeg4", options={"qscale": "3", "flags": "+qscale", "bf": "2", "g": "12"})
MPEG2 = Recipe("mpeg2video", Fraction(25), options={"qscale": "3", "flags": "+qscale", "bf": "2", "g": "12"})
MPEG2_CLOSED = replace(MPEG2, options={**MPEG2.options, "flags": "+qscale+cgop", "sc_threshold": "1000000000"})
MPEG1 = replace(MPEG2, codec="mpeg1video")
MJPEG = Recipe("mjpeg", pix_fmt="yuvj420p", options={"qscale": "3", "flags": "+qscale"})
PRORES = Recipe("prores_ks", pix_fmt="yuv422p10le")
FFV1 = Recipe("ffv1")
FLV1 = Recipe("flv", options={"qscale": "3", "flags": "+qscale", "g": "12"})
WMV2 = Recipe("wmv2", options={"qscale": "3", "flags": "+qscale", "g": "12"})

CLIPS = {
    "h264.mp4": H264,
    "h264.mov": H264,
    "h264.mkv": H264,
    "h264.ts": H264,
    "h264.flv": H264,
    "h264.avi": H264,
    "h264.nut": H264,
    "h264.mxf": replace(H264, rate=Fraction(25)),
    "h264.asf": H264,
    "h264.mpg": H264,
    "h264.3gp": H264,
    "fragments.mp4": FRAGMENTED,
    "pyramid.mp4": PYRAMID,
    "pyramid.mkv": PYRAMID,
    "pyramid.ts": PYRAMID,
    "open.mp4": OPEN_GOP,
    "open.mkv": OPEN_GOP,
    "open.ts": OPEN_GOP,
    "open.flv": OPEN_GOP,
    "one-key.mp4": ONE_KEY,
    "one-key.mkv": ONE_KEY,
    "one-key.ts": ONE_KEY,
    "refresh.mp4": REFRESH,
    "refresh.mkv": REFRESH,
    "refresh.ts": REFRESH,
    "g1.mp4": x264(g="1"),
    "g2.mp4": x264(g="2"),
    "g3.mp4": x264(g="3"),
    "g2.mkv": x264(g="2"),
    "g3.ts": x264(g="3"),
    "hevc.mp4": HEVC,
    "hevc.mkv": HEVC,
    "hevc.ts": HEVC,
    "hevc-layers.mp4": HEVC_LAYERS,
    "hevc-layers.ts": HEVC_LAYERS,
    "hevc-open.mp4": HEVC_OPEN,
    "hevc-open.mkv": HEVC_OPEN,
    "hevc-open.ts": HEVC_OPEN,
    "vp8.webm": VP8,
    "vp8.ogv": VP8,
    "vp8.ivf": VP8,
    "vp8-alt-ref.webm": VP8_ALT_REF,
    "vp8-alt-ref.mkv": VP8_ALT_REF,
    "vp8-alt-ref.ivf": VP8_ALT_REF,
    "vp9.webm": VP9,
    "vp9.mp4": VP9,
    "vp9.ivf": VP9,
    "vp9-alt-ref.webm": VP9_ALT_REF,
    "vp9-alt-ref.mp4": VP9_ALT_REF,
    "av1.mp4": AV1,
    "av1.mkv": AV1,
    "av1.webm": AV1,
    "av1.ivf": AV1,
    "mpeg4.avi": MPEG4,
    "mpeg4.mp4": MPEG4,
    "mpeg4.mkv": MPEG4,
    "mpeg4.mov": MPEG4,
    "mpeg4.nut": MPEG4,
    "mpeg2.mpg": MPEG2,
    "mpeg2.vob": MPEG2,
    "mpeg2.ts": MPEG2,
    "mpeg2.mkv": MPEG2,
    "mpeg2.mp4": MPEG2,
    "mpeg2.mxf": MPEG2,
    "mpeg2-closed.mpg": MPEG2_CLOSED,
    "mpeg2-closed.ts": MPEG2_CLOSED,
    "mpeg2-closed.mkv": MPEG2_CLOSED,
    "mpeg1.mpg": MPEG1,
    "mjpeg.avi": MJPEG,
    "mjpeg.mov": MJPEG,
    "mjpeg.mkv": MJPEG,
    "prores.mov": PRORES,
    "prores.mxf": replace(PRORES, rate=Fraction(25)),
    "ffv1.mkv": FFV1,
    "ffv1.avi": FFV1,
    "ffv1.nut": FFV1,
    "flv1.flv": FLV1,
    "wmv2.asf": WMV2,
}
# Copied from AVI, or as programs do that: presentation times are decoding times, and some frames later.
REMUXES = {
    f"{codec}-b{number}-from-avi.{suffix}": recipe
    for number in range(4)
    for codec, recipe in {
        "h264": x264(bf=str(number)),
        "h264-open": x264(f"open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes={number}"),
        "h264-pyramid": x264("b-adapt=0:b-pyramid=normal:ref=4", bf=str(number)),
        "hevc": x265(f"keyint=12:min-keyint=12:bframes={number}:open-gop=0"),
        "hevc-open": x265(f"keyint=12:min-keyint=12:bframes={number}:open-gop=1"),
        "mpeg4": replace(MPEG4, options={**MPEG4.options, "bf": str(number)}),
    }.items()
    for suffix in ("mp4", "mov")
}
CLIPS |= REMUXES
THREADED = [
    "pyramid.mp4",
    "h264.mp4",
    "h264.mkv",
    "h264.ts",
    "h264.avi",
    "open.mp4",
    "one-key.mp4",
    "hevc-open.mkv",
    "g3.mp4",
]
THREADED += [
    "refresh.mp4",
    "vp8-alt-ref.webm",
    "vp9.webm",
    "av1.mp4",
    "mpeg4.mp4",
    "mpeg2.mpg",
    "mjpeg.mov",
    "ffv1.mkv",
    *REMUXES,
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Write a clip once, and decode it from its beginning."""
    folder, made = tmp_path_factory.mktemp("clips"), {}

    def clip(name, pixels):
        if name not in made:
            recipe, path = CLIPS[name], folder / name
            if name in REMUXES:
                # AVI has no HEVC, and FFmpeg finds the times of MPEG-4: these get those that other copies have.
                source = write_drawn(path.with_suffix(".mp4" if "hevc" in name else ".avi"), NUM_FRAMES, recipe)
                path = folder / f"copy-{name}"
                remux(source, path, list if "h264" in name else as_from_avi, flags="+genpts")
            else:
                write_drawn(path, NUM_FRAMES, recipe)
            made[name] = decode_all(path, pixels)
        return made[name]

    return clip


def moments_at(indices, rate):
    """Return the middles of the times during which some frames are shown."""
    return Moments(tuple(float((index + Fraction(1, 2)) / rate) for index in indices))


@pytest.mark.parametrize("name", CLIPS)
def test_whole_clip_gives_the_frames_that_decoding_all_of_it_gives(clips, pixels, name):
    reference = clips(name, pixels)

    clip = read_with(1, reference, pixels, Window())

    assert [drawn_index(frame) for frame in reference.pixels] == list(range(NUM_FRAMES))
    assert_exact(clip, reference, [0, 7, 15, 22, 30, 38, 45, 53])
    assert clip.notices == ()


@pytest.mark.parametrize("name", THREADED)
def test_threads_change_no_frame(clips, pixels, name):
    reference = clips(name, pixels)

    clip = read_with(3, reference, pixels, Window())

    assert_exact(clip, reference, [0, 7, 15, 22, 30, 38, 45, 53])


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize(("first", "last"), [(0, 11), (11, 37), (25, 33), (41, NUM_FRAMES)])
def test_window_gives_the_frames_that_decoding_all_of_it_gives(clips, pixels, name, first, last):
    reference, rate = clips(name, pixels), CLIPS[name].rate
    window = Window(float((first - HALF) / rate) if first else None, float((last - HALF) / rate))

    clip = read_with(3 if first == 11 else 1, reference, pixels, window)

    assert_exact(clip, reference, [first + k * (last - first) // 8 for k in range(8)])


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("chosen", [[1, 2, 3, 10, 11, 12, 13, 59], [5, 5, 23, 24, 25, 47, 48, 60]])
def test_moments_give_the_frames_on_display(clips, pixels, name, chosen):
    reference = clips(name, pixels)

    clip = read_with(1, reference, pixels, moments_at([*chosen[:-1], chosen[-1] - HALF], CLIPS[name].rate))

    assert_exact(clip, reference, chosen)
