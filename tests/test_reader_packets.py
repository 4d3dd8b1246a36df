"""Packets that need not be decoded are those that FFmpeg's own decoders leave out when told to."""

import av
import numpy as np
import pytest
from media_files import write_drawn
from test_reader_exact import AV1, CLIPS, HEVC_LAYERS

from videollava_cli.reader.bitstream import disposable_by
from videollava_cli.reader.frame_index import TableIndex

NUM_FRAMES = 61
WITH_DISPOSABLES = ["h264.mp4", "h264.mkv", "h264.ts", "h264.flv", "pyramid.mp4", "open.ts", "hevc.mp4", "hevc.mkv"]
WITH_DISPOSABLES += ["hevc.ts", "hevc-open.ts"]
AV1_CLIPS = ["av1.mp4", "av1.mkv", "av1.webm"]
WITHOUT = ["vp9.webm", "mpeg4.mp4", "mpeg2.ts", "refresh.mp4", "g1.mp4"]


def disposables(path):
    """Return the times of packets on which no other picture builds, as we see it."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        is_disposable = disposable_by(context.codec.canonical_name, context.extradata) or (lambda content: False)
        return {p.pts for p in container.demux(video=0) if p.size and not p.is_keyframe and is_disposable(bytes(p))}


def left_out(path):
    """Return the times of frames that a decoder leaves out when it is told to leave out what nothing builds on."""
    with av.open(str(path)) as container:
        times = {packet.pts for packet in container.demux(video=0) if packet.size}
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.skip_frame = "NONREF"
        return times - {frame.pts for frame in container.decode(video=0)}


@pytest.mark.parametrize("name", WITH_DISPOSABLES)
def test_disposable_packets_are_those_that_the_decoder_leaves_out(tmp_path, name):
    path = write_drawn(tmp_path / name, NUM_FRAMES, CLIPS[name])

    found = disposables(path)

    assert found
    assert found == left_out(path)


@pytest.mark.parametrize("name", AV1_CLIPS)
def test_disposable_packets_of_av1_are_among_those_as_some_bring_hidden_pictures_along(tmp_path, name):
    path = write_drawn(tmp_path / name, NUM_FRAMES, CLIPS[name])

    found = disposables(path)

    assert found
    assert found < left_out(path)


@pytest.mark.parametrize("name", WITHOUT)
def test_nothing_is_disposable_where_every_picture_may_be_built_on(tmp_path, name):
    assert disposables(write_drawn(tmp_path / name, NUM_FRAMES, CLIPS[name])) == set()


@pytest.mark.parametrize("name", ["layers.mp4", "layers.ts"])
def test_hevc_pictures_below_a_layer_are_kept_though_the_decoder_would_leave_them_out(tmp_path, name):
    path = write_drawn(tmp_path / name, NUM_FRAMES, HEVC_LAYERS)

    assert disposables(path) == set()


@pytest.mark.parametrize("cut", range(0, 24))
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_cut_off_headers_and_packets_say_nothing_or_something_and_never_fail(codec, cut):
    extradata = bytes.fromhex("01640015ffe1001b67640015acd940a02ff97011000003000100000300320f162d96010006")[:cut]

    is_disposable = disposable_by(codec, extradata) or bool

    assert is_disposable(b"") is False
    assert is_disposable(extradata) in (True, False)


def test_av1_without_its_sequence_header_keeps_all_packets(tmp_path):
    path = write_drawn(tmp_path / "clip.mp4", NUM_FRAMES, AV1)
    with av.open(str(path)) as container:
        av1c = container.streams.video[0].codec_context.extradata

    assert disposable_by("av1", av1c) is not None
    assert disposable_by("av1", av1c[:4]) is None
    assert disposable_by("av1", None) is None


def test_wanted_frames_of_a_gop_are_in_ascending_order():
    index = TableIndex(np.arange(300), [0, 200], reorder_window=20)

    gops = index.gops({number * 300 // 8 for number in range(8)})  # a set of these numbers is in another order

    assert list(gops.values()) == [[0, 37, 75, 112, 150, 187], [225, 262]]
