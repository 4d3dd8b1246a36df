"""Still pictures upright, opaque and in 8 bits; animations as clips; told apart by content."""

import struct
import zlib

import numpy as np
import pytest
from media_files import UPRIGHT_CORNERS, corner_colors, corners, grey, indices_of, png_header, truncate
from media_files import write_animation as animation
from media_files import write_image as still
from PIL import Image, TiffImagePlugin

from videollava_cli.errors import MediaError
from videollava_cli.media import MediaKind

ORIENTATION = 0x0112  # EXIF tag
WHITE = (255, 255, 255)
TURNED = {
    1: UPRIGHT_CORNERS,
    2: ("green", "red", "white", "blue"),
    3: ("white", "blue", "green", "red"),
    4: ("blue", "white", "red", "green"),
    5: ("red", "blue", "green", "white"),
    6: ("blue", "red", "white", "green"),
    7: ("white", "green", "blue", "red"),
    8: ("green", "white", "red", "blue"),
}


def level_of(image):
    return round(float(image.pixels.mean()))


def save(path, picture, **options):
    picture.save(path, **options)
    return path


def exif_of(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "avif", "mpo"])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_applied(tmp_path, read, suffix, orientation):
    path = still(tmp_path / f"photo.{suffix}", corners(), exif=exif_of(orientation), quality=95)

    assert corner_colors(read(path).pixels[0]) == TURNED[orientation]


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_applied_to_every_frame_of_an_animation(tmp_path, read, suffix, orientation):
    first, second = Image.fromarray(corners()), Image.fromarray(255 - corners())
    options = {"save_all": True, "append_images": [second, first] * 3 + [second], "exif": exif_of(orientation)}
    path = save(tmp_path / f"clip.{suffix}", first, duration=100, **options)

    frames = read(path).pixels

    assert [corner_colors(frame) for frame in (*frames[::2], *(255 - frames[1::2]))] == [TURNED[orientation]] * 8


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tiff", "ico", "jp2", "ppm", "avif"])
def test_picture_of_each_format_is_an_image_of_the_models_side(tmp_path, read, pixels, suffix):
    path = still(tmp_path / f"picture.{suffix}", grey(20))

    image = read(path)

    assert image.kind is MediaKind.IMAGE
    assert image.pixels.shape == (1, pixels.crop_side, pixels.crop_side, 3)
    assert level_of(image) == pytest.approx(80, abs=2)


@pytest.mark.parametrize("name", ["picture.mp4", "picture.gif", "picture.txt", "picture", "a:b %03d\n.png"])
def test_kind_is_decided_by_content_whatever_the_name(tmp_path, read, name):
    path = still(tmp_path / name, grey(20), form="PNG")

    image = read(path)

    assert (image.kind, level_of(image)) == (MediaKind.IMAGE, 80)


def test_picture_keeps_its_name(tmp_path, read):
    path = still(tmp_path / "picture.png", grey(1))

    assert read(path).name == str(path)


@pytest.mark.parametrize("level", [0, 1, 100, 128, 255])
def test_sixteen_bit_picture_is_scaled_to_eight_bits(tmp_path, read, level):
    deep = Image.fromarray(np.full((48, 64), level * 257, np.uint16))
    path = save(tmp_path / "deep.png", deep)

    assert level_of(read(path)) == level


@pytest.mark.parametrize(("brightest", "level"), [(0.5, 128), (1.0, 255), (1000.0, 255)])
def test_float_picture_is_scaled_to_eight_bits(tmp_path, read, brightest, level):
    path = save(tmp_path / "float.tiff", Image.fromarray(np.full((48, 64), brightest, np.float32)))

    assert level_of(read(path)) == level


def test_values_that_are_no_numbers_are_black(tmp_path, read):
    values = np.full((48, 64), 0.5, np.float32)
    values[:24] = np.nan
    values[24] = np.inf
    path = save(tmp_path / "float.tiff", Image.fromarray(values))

    picture = read(path).pixels[0]

    assert (picture[:20].max(), picture[30:].min()) == (0, 128)


def two_halves(left, right, dtype):
    values = np.full((48, 64), left, dtype)
    values[:, 32:] = right
    return Image.fromarray(values)


def halves_of(image):
    return round(float(image.pixels[0, :, :12].mean())), round(float(image.pixels[0, :, -12:].mean()))


@pytest.mark.parametrize(("dtype", "left", "right"), [("int32", -9, 70000), ("int32", 5, 6), ("float32", -1.5, 3e9)])
def test_values_above_16_bits_are_scaled_by_the_pictures_own_and_it_is_told(tmp_path, read, dtype, left, right):
    path = save(tmp_path / "deep.tiff", two_halves(left, right, dtype))

    image = read(path)

    assert halves_of(image) == (0, 255)
    assert image.notices[0].startswith(f"{str(path)!r} has 32-bit values: {left:g} is shown as black")


@pytest.mark.parametrize(("dtype", "tags"), [("int32", (340, 341)), ("float32", (340, 341)), ("uint16", (280, 281))])
def test_values_are_scaled_by_what_tiff_says_of_them(tmp_path, read, dtype, tags):
    tiffinfo = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in zip(tags, (100, 300), strict=True):
        tiffinfo[tag] = value
    path = save(tmp_path / "deep.tiff", two_halves(150, 250, dtype), tiffinfo=tiffinfo)

    image = read(path)

    assert (halves_of(image), image.notices) == ((64, 191), ())


def png_of(values, depth, color, key):
    """Return a PNG of a bit depth and colour type, of which a grey level or colour is transparent."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.tobytes() for row in values)
    width = values.shape[1] * (8 // depth if depth < 8 else 1)
    header = struct.pack(">IIBBBBB", width, len(values), depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"tRNS", key) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("depth", "color", "left", "right", "key"),
    [
        (16, 0, 1000, 0, (1000,)),
        (2, 0, 0x55, 0, (1,)),
        (4, 0, 0x55, 0, (5,)),
        (8, 0, 9, 0, (9,)),
        (16, 2, (0x1234, 0, 0), (0, 0, 0), (0x1234, 0, 0)),
        (8, 2, (9, 0, 0), (0, 0, 0), (9, 0, 0)),
    ],
)
def test_level_that_a_png_makes_transparent_lies_over_white(tmp_path, read, depth, color, left, right, key):
    values = np.empty((48, 64 * depth // 8 if depth < 8 else 64, *np.shape(left)), ">u2" if depth == 16 else np.uint8)
    values[:, : values.shape[1] // 2], values[:, values.shape[1] // 2 :] = left, right
    path = tmp_path / "keyed.png"
    path.write_bytes(png_of(values, depth, color, struct.pack(f">{len(key)}H", *key)))

    assert halves_of(read(path)) == (255, 0)


@pytest.mark.parametrize("suffix", ["dds", "icns", "pcx", "qoi", "sgi", "j2k"])
def test_picture_of_a_rarer_format_has_pillows_pixels(tmp_path, read, suffix):
    path = still(tmp_path / f"picture.{suffix}", corners(128, 128))
    bare = path.rename(tmp_path / "picture")

    assert corner_colors(read(bare).pixels[0]) == UPRIGHT_CORNERS


@pytest.mark.parametrize("header", [b"P6 64 48 255\n", b"P6 # a comment\n64 48\n# another\n255\n", b"P6\t64\n48 255 "])
def test_netpbm_header_may_be_laid_out_in_any_way(tmp_path, read, header):
    path = tmp_path / "picture"
    path.write_bytes(header + corners().tobytes())

    assert corner_colors(read(path).pixels[0]) == UPRIGHT_CORNERS


def test_bigtiff_is_a_picture(tmp_path, read):
    path = save(tmp_path / "big", Image.fromarray(corners()), format="TIFF", big_tiff=True)

    assert path.read_bytes()[:4] == b"II+\0"
    assert corner_colors(read(path).pixels[0]) == UPRIGHT_CORNERS


@pytest.mark.parametrize("times", [155, 275])  # 74 million pixels, and 232 million
def test_photograph_of_up_to_250_million_pixels_keeps_its_colours(tmp_path, read, times):
    levels = Image.fromarray(corners()).convert("L").resize((64 * times, 48 * times), Image.Resampling.NEAREST)
    path = save(tmp_path / "large.jpg", levels, quality=30)

    picture = read(path).pixels[0].astype(int)

    assert [picture[y, x, 0] for y in (9, 38) for x in (9, 38)] == pytest.approx([76, 150, 29, 255], abs=2)


def test_progressive_photograph_has_the_limit_of_other_pictures(tmp_path, reader):
    path = save(tmp_path / "large.jpg", Image.new("L", (9500, 9500)), quality=30, progressive=True)

    with pytest.raises(MediaError, match=r"is too large: 9500 x 9500, over 89,478,485 pixels"):
        reader.find(str(path))


def with_alpha(alpha):
    return Image.fromarray(np.dstack([grey(0), np.full((48, 64), alpha, np.uint8)]))


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
@pytest.mark.parametrize(("alpha", "level"), [(0, 255), (128, 127), (255, 0)])
def test_transparent_picture_lies_over_white(tmp_path, read, suffix, alpha, level):
    path = save(tmp_path / f"ghost.{suffix}", with_alpha(alpha))

    assert level_of(read(path)) == pytest.approx(level, abs=1)


def test_transparent_grey_and_palette_pictures_lie_over_white(tmp_path, read):
    grey_alpha = save(tmp_path / "grey.png", with_alpha(0).convert("LA"))
    palette = save(tmp_path / "palette.png", Image.new("P", (64, 48), 0), transparency=0)
    keyed = save(tmp_path / "keyed.png", Image.new("RGB", (64, 48), (9, 9, 9)), transparency=(9, 9, 9))

    assert [level_of(read(path)) for path in (grey_alpha, palette, keyed)] == [255, 255, 255]


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "YCbCr", "1"])
def test_picture_of_another_colour_model_becomes_rgb(tmp_path, read, mode):
    picture = Image.fromarray(np.full((48, 64, 3), 255, np.uint8)).convert(mode)
    path = save(tmp_path / "picture.tiff", picture)

    assert corner_colors(read(path).pixels[0]) == ("white",) * 4


def test_cmyk_photograph_keeps_its_colours(tmp_path, read):
    path = save(tmp_path / "print.jpg", Image.fromarray(corners()).convert("CMYK"), quality=95)

    assert corner_colors(read(path).pixels[0]) == UPRIGHT_CORNERS


@pytest.mark.parametrize(
    ("name", "options"),
    [("clip.gif", {}), ("clip.png", {}), ("clip.webp", {"lossless": True}), ("clip.avif", {"quality": 95})],
)
def test_animation_becomes_a_clip_of_the_right_frames(tmp_path, read, name, options):
    path = animation(tmp_path / name, 20, **options)

    clip = read(path)

    assert clip.kind is MediaKind.VIDEO
    assert indices_of(clip) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert [stamp.index for stamp in clip.stamps] == [0, 2, 5, 7, 10, 12, 15, 17]
    assert clip.notices == ()


@pytest.mark.parametrize(
    ("name", "options"),
    [("clip.gif", {}), ("clip.png", {}), ("clip.webp", {"lossless": True}), ("clip.avif", {})],
)
def test_animation_whose_frames_last_differently_gives_the_time_of_each(tmp_path, read, name, options):
    durations = [50, 200, 30, 70, 40, 500, 20, 90]
    path = animation(tmp_path / name, 8, durations, **options)

    clip = read(path)

    starts = [0.0, 0.05, 0.25, 0.28, 0.35, 0.39, 0.89, 0.91]
    assert [stamp.seconds for stamp in clip.stamps] == pytest.approx(starts, abs=1e-3)


def test_animation_that_names_no_duration_shows_ten_frames_a_second(tmp_path, read):
    path = animation(tmp_path / "clip.gif", 8, 0)

    clip = read(path)

    assert [stamp.seconds for stamp in clip.stamps] == pytest.approx([k / 10 for k in range(8)])


def test_animation_shorter_than_eight_frames_repeats_frames_and_says_so(tmp_path, read):
    path = animation(tmp_path / "clip.gif", 2)

    clip = read(path)

    assert indices_of(clip) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert clip.notices == (f"{str(path)!r} has 2 frames to sample: repeated to make 8",)


def test_window_applies_to_animations(tmp_path, read):
    path = animation(tmp_path / "clip.gif", 30)

    clip = read(path, 1.0, 1.8)

    assert indices_of(clip) == [10, 11, 12, 13, 14, 15, 16, 17]


def test_window_behind_the_last_frame_of_an_animation_is_refused(tmp_path, read):
    path = animation(tmp_path / "clip.gif", 10)

    with pytest.raises(MediaError, match=r"no frames between the times asked for: its last frame is at 0\.90 s"):
        read(path, 5.0)


def test_transparent_frames_of_an_animation_lie_over_white(tmp_path, read):
    first, second = Image.new("RGBA", (64, 48), (0, 0, 0, 0)), Image.new("RGBA", (64, 48), (0, 0, 0, 255))
    path = save(tmp_path / "clip.png", first, save_all=True, append_images=[second], duration=100)

    clip = read(path)

    assert [frame.mean() for frame in clip.pixels] == [255] * 4 + [0] * 4


def test_poster_that_an_apng_shows_to_old_viewers_only_is_no_frame(tmp_path, read):
    poster, *frames = [Image.fromarray(grey(index)) for index in (50, *range(8))]
    path = save(
        tmp_path / "clip.png", poster, save_all=True, append_images=frames, default_image=True, duration=[100] * 8
    )

    clip = read(path)

    assert indices_of(clip) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [stamp.index for stamp in clip.stamps] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [stamp.seconds for stamp in clip.stamps] == pytest.approx([k / 10 for k in range(8)])


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animation_of_a_single_frame_is_an_image(tmp_path, read, suffix):
    path = animation(tmp_path / f"clip.{suffix}", 1)

    assert read(path).kind is MediaKind.IMAGE


@pytest.mark.parametrize("suffix", ["tiff", "mpo"])
def test_several_pages_of_a_picture_are_the_image_of_the_first(tmp_path, read, suffix):
    first, second = Image.fromarray(grey(10)), Image.fromarray(grey(50))
    path = save(tmp_path / f"pages.{suffix}", first, save_all=True, append_images=[second])

    image = read(path)

    assert (image.kind, level_of(image)) == (MediaKind.IMAGE, 40)


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (9460, 9460, r"is too large: 9460 x 9460, over 89,478,485 pixels"),
        (30000, 30000, r"bomb\.png.* is too large: "),
        (1, 30000, r"is too narrow: 1 x 30000, beyond 2,000 to 1"),
    ],
)
def test_picture_of_a_size_that_would_fill_the_memory_is_refused(tmp_path, reader, width, height, message):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))

    with pytest.raises(MediaError, match=message):
        reader.find(str(path))


def test_truncated_photograph_is_refused(tmp_path, read):
    rgb = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    path = truncate(still(tmp_path / "photo.jpg", rgb), 0.5)

    with pytest.raises(MediaError, match=r"cannot read .*photo\.jpg': the picture is cut off"):
        read(path)


@pytest.mark.parametrize(
    "head", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\x00\x00\x00\x00WEBP", b"BM", b"II*\x00", b"P6\n"]
)
def test_file_that_only_begins_like_a_picture_is_refused(tmp_path, reader, head):
    path = tmp_path / "picture.png"
    path.write_bytes(head + b"and then nothing of the kind")

    with pytest.raises(MediaError, match=r"picture\.png'"):
        reader.find(str(path))


def test_damage_that_only_decoding_finds_is_told_in_one_line(tmp_path, read):
    path = still(tmp_path / "photo.avif", corners())
    content = path.read_bytes()
    body = content.index(b"mdat") + 4
    path.write_bytes(content[:body] + b"\xff" * (len(content) - body))

    with pytest.raises(MediaError, match=r"cannot read .*photo\.avif': the picture is damaged"):
        read(path)


def test_animation_that_grows_beyond_the_pixel_limit_is_refused(tmp_path, read):
    path = animation(tmp_path / "clip.gif", 3)
    content = bytearray(path.read_bytes())
    last_frame = content.rindex(b"\x2c\x00\x00\x00\x00")  # an image descriptor at 0, 0; width and height follow
    content[last_frame + 5 : last_frame + 9] = b"\xff\xff\xff\xff"
    path.write_bytes(content)

    with pytest.raises(MediaError, match=r"clip\.gif' is too large: over 89,478,485 pixels"):
        read(path)


def test_damaged_exif_tags_do_not_hide_the_picture(tmp_path, read):
    exif = Image.Exif()
    exif[ORIENTATION] = 1
    path = still(tmp_path / "photo.jpg", grey(20), exif=exif)
    content = path.read_bytes()
    tags = content.index(b"Exif\0\0") + 14
    path.write_bytes(content[:tags] + b"\xff\xff" + content[tags + 2 :])

    assert level_of(read(path)) == 80


def avif_of_other_brands(path, major, *compatible):
    """Write an AVIF picture whose `ftyp` box names these brands."""
    content = still(path, grey(20), form="AVIF").read_bytes()
    size = int.from_bytes(content[:4], "big")
    names = b"".join(compatible)
    assert len(names) <= size - 16
    path.write_bytes(content[:8] + major + content[12:16] + names.ljust(size - 16, b"\0") + content[size:])
    return path


@pytest.mark.parametrize(
    "brands", [(b"mif1", b"avif", b"mif1"), (b"mif1", b"miaf", b"MA1B", b"avif"), (b"avif", b"mif1")]
)
def test_avif_picture_is_known_by_any_of_its_brands(tmp_path, read, brands):
    path = avif_of_other_brands(tmp_path / "picture.avif", *brands)

    image = read(path)

    assert (image.kind, level_of(image)) == (MediaKind.IMAGE, 80)


@pytest.mark.parametrize("name", ["page.eps", "page.png", "page.jpg"])
def test_postscript_is_never_run(tmp_path, reader, name):
    path = save(tmp_path / name, Image.fromarray(grey(1)), format="EPS")

    with pytest.raises(MediaError, match=r"page.* is no video or image that can be read"):
        reader.find(str(path))
