"""Media that a Python program holds in memory: pixels as from files, and one line about all that is no medium."""

import io
import math
import tempfile
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from media_files import (
    UPRIGHT_CORNERS,
    corner_colors,
    corners,
    drawn,
    drawn_indices,
    grey,
    write_animation,
    write_drawn,
    write_image,
)
from PIL import Image, ImageSequence
from reference import assert_exact, decode_all

from videollava_cli import clip
from videollava_cli.errors import MediaError, UsageError, VllavaError
from videollava_cli.media import MediaKind
from videollava_cli.preprocessing import resize_frame, to_model
from videollava_cli.sampling import Moments, Window

CHOSEN = [index * 20 // 8 for index in range(8)]  # of twenty frames


@pytest.fixture
def see(reader, pixels):
    """Read a medium from memory."""

    def see(source, sampling=None):
        return reader.read(reader.find(source), pixels, sampling=sampling)

    return see


@pytest.fixture
def video(tmp_path):
    """Write a video of twenty frames."""
    return write_drawn(tmp_path / "clip.mp4", 20)


def decoded(path):
    """Return all frames of a video, uint8 RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    "hold",
    [
        pytest.param(lambda path: path, id="PathLike"),
        pytest.param(lambda path: path.read_bytes(), id="bytes"),
        pytest.param(lambda path: memoryview(path.read_bytes()), id="memoryview"),
        pytest.param(lambda path: io.BytesIO(path.read_bytes()), id="BytesIO"),
        pytest.param(lambda path: np.stack(decoded(path)), id="array"),
        pytest.param(lambda path: torch.from_numpy(np.stack(decoded(path))), id="tensor"),
        pytest.param(decoded, id="list of arrays"),
        pytest.param(lambda path: tuple(map(Image.fromarray, decoded(path))), id="tuple of PIL images"),
        pytest.param(lambda path: clip(iter(decoded(path)), fps=10), id="clip of an iterator"),
    ],
)
def test_clip_in_any_form_has_the_pixels_of_a_full_decode(see, pixels, video, hold):
    assert_exact(see(hold(video)), decode_all(video, pixels), CHOSEN)


@pytest.mark.parametrize("make", [io.BytesIO, tempfile.TemporaryFile, tempfile.SpooledTemporaryFile])
def test_open_file_is_read_from_where_it_stands(see, pixels, video, make):
    with make() as file:
        file.write(b"before" + video.read_bytes())
        file.seek(len(b"before"))

        assert_exact(see(file), decode_all(video, pixels), CHOSEN)


@pytest.mark.parametrize("number", [8, 1, 3, 9, 100])
def test_frames_are_sampled_uniformly_and_eight_stay_as_they_are(see, number):
    seen = see([grey(index % 60) for index in range(number)])

    assert [stamp.index for stamp in seen.stamps] == [index * number // 8 for index in range(8)]
    assert (len(seen.notices) == 1) == (number < 8)


@pytest.mark.parametrize("layout", ["F", "reversed", "read-only", "cut out"])
def test_array_of_any_layout_in_memory_is_read(see, pixels, layout):
    frames = np.stack([drawn(index) for index in range(8)])
    given = np.asfortranarray(frames) if layout == "F" else frames
    given = frames[::-1, ::-1] if layout == "reversed" else given[:, 1:, 3:] if layout == "cut out" else given
    given.flags.writeable = layout != "read-only"

    expected = [to_model(np.ascontiguousarray(frame), pixels, resize_frame) for frame in given.copy()]

    assert np.array_equal(see(given).pixels, expected)


@pytest.mark.parametrize("hold", [lambda picture: picture, Image.fromarray])
def test_picture_in_memory_is_an_image_as_its_file(see, tmp_path, hold):
    path = write_image(tmp_path / "picture.png", corners(90, 70))

    seen = see(hold(np.asarray(Image.open(path))))

    assert (seen.kind, seen.stamps, corner_colors(seen.pixels[0])) == (MediaKind.IMAGE, (), UPRIGHT_CORNERS)
    assert np.array_equal(seen.pixels, see(path).pixels)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_pil_image_and_frame_are_turned_upright(see, tmp_path, orientation):
    turn = {3: 180, 6: 90, 8: 270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(corners()).rotate(turn, expand=True).save(tmp_path / "turned.png", exif=exif)

    with Image.open(tmp_path / "turned.png") as picture:
        assert corner_colors(see(picture).pixels[0]) == UPRIGHT_CORNERS
        assert corner_colors(see([picture]).pixels[7]) == UPRIGHT_CORNERS


@pytest.mark.parametrize(
    ("picture", "level"),
    [
        (Image.new("RGBA", (64, 64), (0, 0, 0, 0)), 255),
        (Image.new("LA", (64, 64), (0, 0)), 255),
        (Image.fromarray(np.full((64, 64), 128 * 257, np.uint16)), 128),
        (Image.new("1", (64, 64), 1), 255),
        (Image.new("CMYK", (64, 64), (255, 255, 255, 0)), 0),
    ],
    ids=["RGBA", "LA", "I;16", "1", "CMYK"],
)
def test_pil_image_of_any_mode_becomes_rgb_over_white(see, picture, level):
    assert (see(picture).pixels == level).all()
    assert (see([picture] * 8).pixels == level).all()


@pytest.mark.parametrize(
    ("name", "picture", "options"),
    [
        ("deep.png", Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16), {}),
        ("deep.tif", Image.fromarray(np.arange(64 * 64, dtype=np.float32).reshape(64, 64)), {}),
        ("palette.png", Image.fromarray(corners()).quantize(8), {"transparency": 2}),
        ("two-bit.png", Image.fromarray(corners()).quantize(4), {"bits": 2}),
        ("photo.jpg", Image.fromarray(corners()).convert("CMYK"), {}),
        ("clear.webp", Image.new("RGBA", (64, 64), (9, 99, 0, 90)), {"lossless": True}),
        ("pages.tif", Image.fromarray(corners()), {"save_all": True, "append_images": [Image.fromarray(grey(9))]}),
    ],
)
def test_file_that_pillow_opened_is_seen_as_the_file_and_stays_as_it_is(see, tmp_path, name, picture, options):
    picture.save(tmp_path / name, **options)

    with Image.open(tmp_path / name) as opened:
        first, again = see(opened), see(opened)
        before, after = opened.mode, np.asarray(opened)

    assert np.array_equal(first.pixels, see(tmp_path / name).pixels)
    assert np.array_equal(first.pixels, again.pixels)
    with Image.open(tmp_path / name) as fresh:
        assert (before, np.array_equal(after, np.asarray(fresh))) == (fresh.mode, True)


@pytest.mark.parametrize("name", ["clip.gif", "clip.png", "clip.webp"])
def test_pil_image_of_an_animation_is_a_clip_and_stays_at_its_frame(see, tmp_path, name):
    path = write_animation(tmp_path / name, 20)
    with Image.open(path) as picture:
        picture.seek(5)

        seen = see(picture)

        assert np.array_equal(seen.pixels, see(path).pixels)
        assert (seen.kind, picture.tell()) == (MediaKind.VIDEO, 5)


def test_frames_that_are_one_image_moved_on_are_refused(tmp_path):
    with Image.open(write_animation(tmp_path / "clip.gif", 9)) as picture:
        with pytest.raises(UsageError, match=r"all one PIL image.*frame\.copy\(\)"):
            clip(ImageSequence.Iterator(picture))

        assert len(clip(frame.copy() for frame in ImageSequence.Iterator(picture)).frames) == 9


@pytest.mark.parametrize("fps", [10, 12.5, Fraction(30000, 1001)])
def test_frames_per_second_give_frames_their_times(see, fps):
    frames = clip([drawn(index) for index in range(60)], fps=fps)

    later, named = see(frames, Window(1.0, 1.5)), see(frames, Moments((0.0, 0.11, 0.21, 0.31, 0.41, 0.51, 0.61, 1.0)))

    assert all(1.0 <= stamp.index / fps < 1.5 for stamp in later.stamps)
    assert drawn_indices(later) == [stamp.index for stamp in later.stamps]
    assert drawn_indices(named) == [math.floor(at * fps) for at in (0, 0.11, 0.21, 0.31, 0.41, 0.51, 0.61, 1.0)]
    assert [stamp.seconds for stamp in later.stamps] == [stamp.index / float(fps) for stamp in later.stamps]


@pytest.mark.parametrize("sampling", [Window(1.0), Window(None, 2.0), Moments((0.0,) * 8)])
def test_times_mean_nothing_for_frames_without_them(see, sampling):
    with pytest.raises(UsageError, match=r"^start, end and at need the times of frames.*clip\(frames, fps=25\)$"):
        see([grey(1)] * 8, sampling)


def test_frames_without_times_have_none_in_json(see):
    assert see([grey(1)] * 8).as_json()["frames"][7] == {"index": 7, "seconds": None}


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf, "25", True])
def test_frames_per_second_that_are_none_are_refused(fps):
    with pytest.raises(UsageError, match=r"^fps is .*: give the number of frames per second"):
        clip([grey(1)], fps=fps)


NO_MEDIA = [
    *(3, 2.5, None, {}, {"a": 1}, set(), object(), io.BytesIO, iter([grey(1)])),
    *(grey(1) / 255, grey(1).astype(np.int64), grey(1)[..., 0], grey(1)[..., :2], grey(1).transpose(2, 0, 1)),
    *(np.zeros((0, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 2, 9, 9, 3), np.uint8)),
    *(torch.zeros(8, 4, 4, 3), torch.zeros(4, 4, 3, dtype=torch.uint8, device="meta"), np.array(["clip.mp4"])),
    *([], (), [3], ["frame.png"], [[grey(1)]], [np.stack([grey(1)] * 8)], [grey(1), None], [grey(1) / 255]),
]


@pytest.mark.parametrize("source", NO_MEDIA, ids=lambda source: type(source).__name__)
def test_what_is_no_medium_is_one_line_that_says_what_is_taken(reader, source):
    with pytest.raises(UsageError, match=r"\A[^\n]*(is|needs|cannot) [^\n]*: give [^\n]*uint8[^\n]*\Z"):
        reader.find(source)


def closed(source):
    """Close a file or a picture."""
    source.close()
    return source


@pytest.mark.parametrize(
    ("hold", "message"),
    [
        (lambda path: b"", "'bytes' is empty"),
        (lambda path: bytearray(b"hello"), "'bytes' is no video or image"),
        (lambda path: io.BytesIO(), "'open file' has nothing to read"),
        (lambda path: io.StringIO("text"), "'open file' is open as text: open it with mode 'rb'"),
        (lambda path: closed(path.open("rb")), "picture.png' is closed"),
        (lambda path: closed(Image.open(path)), "picture.png': the picture is closed"),
        (lambda path: [closed(Image.open(path))], "'frames': the picture is closed"),
        (lambda path: Image.new("RGB", (0, 0)), "'image' is empty: 0 x 0"),
        (lambda path: np.zeros((3, 9000, 3), np.uint8), "'array' is too narrow: 9000 x 3"),
        (lambda path: [grey(1), np.zeros((9000, 3, 3), np.uint8)], "'frame 1' is too narrow"),
    ],
)
def test_medium_in_memory_that_cannot_be_read_is_one_line(see, tmp_path, hold, message):
    with pytest.raises(VllavaError) as refusal:
        see(hold(write_image(tmp_path / "picture.png", grey(1))))

    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_file_that_is_not_open_for_reading_is_a_media_error(see, tmp_path):
    with (tmp_path / "new").open("wb") as file, pytest.raises(MediaError, match=r"is it open for reading\?$"):
        see(file)
