"""HEIC and HEIF pictures, as phones take them, through pillow-heif."""

import sys
from contextlib import suppress
from unittest import mock

import numpy as np
import pillow_heif
import pytest
from in_process import vllava
from media_files import COLORS, corners, write_video
from PIL import Image, ImageOps

from videollava_cli.errors import MediaError
from videollava_cli.media import MediaKind

LOSSLESS = {"quality": -1, "chroma": 444}
ROUNDING = 3  # levels: RGB to YCbCr and back


@pytest.fixture
def see(reader, pixels):
    """Return a function that reads a picture as the model sees it."""
    return lambda path: reader.read(reader.find(str(path)), pixels)


def heic(path, *pictures, **options):
    """Write pictures of RGB or RGBA, (H, W, C), the first one primary."""
    first, *others = (pillow_heif.from_pillow(Image.fromarray(picture)) for picture in pictures)
    for other in others:
        first.add_from_heif(other[0])
    first.save(path, **{**LOSSLESS, **options})
    return path


def assert_shows(medium, picture, see, tmp_path):
    """Assert that a medium is as a PNG of a picture."""
    Image.fromarray(picture).save(tmp_path / "expected.png")
    expected = see(tmp_path / "expected.png")
    assert medium.kind is MediaKind.IMAGE
    assert np.abs(medium.pixels.astype(int) - expected.pixels.astype(int)).max() <= ROUNDING


@pytest.mark.parametrize("name", ["photo.heic", "photo.heif", "photo.jpg", "photo"])
def test_picture_is_read_whatever_its_name(see, tmp_path, name):
    assert_shows(see(heic(tmp_path / name, corners(96, 64))), corners(96, 64), see, tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_is_turned_upright_once(see, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    tagged = Image.fromarray(corners(96, 64))
    tagged.info["exif"] = exif.tobytes()
    upright = ImageOps.exif_transpose(tagged)

    path = heic(tmp_path / "photo.heic", corners(96, 64), exif=exif.tobytes())

    assert (b"irot" in path.read_bytes()) == (orientation not in (1, 2, 4))
    assert_shows(see(path), np.asarray(upright), see, tmp_path)


def test_transparent_parts_lie_over_white(see, tmp_path):
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., :3] = COLORS["red"]
    picture[:32, :, 3] = 255

    seen = see(heic(tmp_path / "photo.heic", picture)).pixels[0]

    side = len(seen)
    assert np.abs(seen[side // 8, side // 2].astype(int) - COLORS["red"]).max() <= ROUNDING
    assert seen[-side // 8, side // 2].min() >= 255 - ROUNDING


def test_first_picture_of_several_is_taken(see, tmp_path):
    others = [np.full((64, 96, 3), COLORS[name], np.uint8) for name in ("blue", "green")]

    assert_shows(see(heic(tmp_path / "burst.heic", corners(96, 64), *others)), corners(96, 64), see, tmp_path)


def test_picture_comes_through_a_pipe_and_in_a_batch(tmp_path):
    path = heic(tmp_path / "photo.heic", corners(96, 64))

    asked = vllava("ask", "-m", "tiny", "--device", "cpu", "-", "What is it?", stdin=path.read_bytes())
    listed = vllava("batch", tmp_path, "-q", "What is it?", "--dry-run")

    assert (asked.status, asked.stderr) == (0, "")
    assert (listed.status, listed.stdout.count("photo.heic")) == (0, 2)


def test_package_that_is_missing_is_named(reader, tmp_path):
    path = heic(tmp_path / "photo.heic", corners(96, 64))

    with mock.patch.dict(sys.modules, {"pillow_heif": None}), pytest.raises(MediaError) as refusal:
        reader.find(str(path))

    assert str(refusal.value).startswith(f"{str(path)!r} is a HEIC picture, and the package for them is missing: pip ")


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.9, 0.99])
def test_picture_that_is_cut_off_is_an_error_of_ours(see, tmp_path, share):
    content = heic(tmp_path / "photo.heic", np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8))
    whole = content.read_bytes()
    content.write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(MediaError) as refusal:
        see(content)

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_picture_is_read_or_refused(see, tmp_path, seed):
    random = np.random.default_rng(seed)
    path = heic(tmp_path / "photo.heic", corners(96, 64))
    content = bytearray(path.read_bytes())
    for place in random.integers(24, len(content), 8):
        content[place] = random.integers(256)
    path.write_bytes(content)

    with suppress(MediaError):  # any other error is a fault
        assert see(path).pixels.shape[0] in (1, 8)


@pytest.mark.parametrize("brand", [b"msf1", b"hevc", b"hevx"])
def test_sequence_is_a_video(see, tmp_path, brand):
    path = write_video(tmp_path / "live.mp4", 16)
    expected, content = see(path), path.read_bytes()

    path.write_bytes(content[:8] + brand + content[12:])

    assert see(path).kind is MediaKind.VIDEO
    assert (see(path).pixels == expected.pixels).all()


def test_size_is_limited_before_it_is_decoded(reader, tmp_path):
    path = heic(tmp_path / "photo.heic", corners(96, 64))
    content = path.read_bytes()
    place = content.index(b"ispe") + 8
    path.write_bytes(content[:place] + (60_000).to_bytes(4, "big") * 2 + content[place + 8 :])

    with pytest.raises(MediaError, match=r"photo\.heic"):
        reader.find(str(path))
