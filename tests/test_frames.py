"""`vllava frames` shows what the model sees, to the pixel, and what the crop hides from it."""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import Done, vllava
from media_files import COLORS, LEVEL_STEP, corners, write_frames, write_image, write_video
from PIL import Image
from transformers import VideoLlavaImageProcessor

from videollava_cli.engine.checkpoint import BUNDLED_FOLDER, find_checkpoint, find_pixels
from videollava_cli.media import FrameStamp, MediaKind, Medium
from videollava_cli.preprocessing import Fit, PixelSettings, resize_image, to_model
from videollava_cli.settings import presets_folder, resolve
from videollava_cli.sheet import BACKGROUND, DIMMED, Overview, draw_sheet, make_tiles

MEAN = (122, 116, 104)  # CLIP's mean colour, rounded down
RED, GREEN, BLUE = COLORS["red"], COLORS["green"], COLORS["blue"]


def frames(*arguments, stdin=b""):
    """Run the command with the bundled model's settings."""
    return vllava("frames", "-m", "tiny", *arguments, stdin=stdin)


def stripes(width=160, height=90):
    """Return a picture whose centre square is green, red to its left and blue to its right."""
    picture = np.zeros((height, width, 3), np.uint8)
    left = (width - height) // 2
    picture[:, :left], picture[:, left : left + height], picture[:, left + height :] = RED, GREEN, BLUE
    return picture


def dimmed(color):
    """Return how a colour looks outside of what the model sees."""
    return tuple(int(c * DIMMED + b * (1 - DIMMED)) for c, b in zip(color, BACKGROUND, strict=True))


def colors_of(path):
    """Return the colours of a picture that cover at least a thousand pixels."""
    with Image.open(path) as picture:
        return {color for count, color in picture.convert("RGB").getcolors(1 << 24) if count >= 1000}


@pytest.fixture
def photo(tmp_path):
    return write_image(tmp_path / "photo.png", stripes())


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mp4", 16)


def test_sheet_shows_the_crop_bright_and_what_it_hides_dimmed(photo, tmp_path):
    done = frames(photo, "-o", tmp_path / "sheet.png")

    assert (done.status, done.stdout, done.stderr) == (0, "", "")
    found = colors_of(tmp_path / "sheet.png")
    assert {BACKGROUND, GREEN, dimmed(RED), dimmed(BLUE)} <= found
    assert not {RED, BLUE} & found


def test_padded_sheet_shows_the_whole_picture_between_bars_of_the_mean_colour(photo, tmp_path):
    frames(photo, "--fit", "pad", "-o", tmp_path / "sheet.png")

    assert {RED, GREEN, BLUE, MEAN} <= colors_of(tmp_path / "sheet.png")


@pytest.mark.parametrize(
    ("name", "form"), [("s.png", "PNG"), ("s.jpg", "JPEG"), ("s.JPEG", "JPEG"), ("s.webp", "WEBP")]
)
def test_suffix_names_the_format_and_a_sheet_of_ours_is_replaced(photo, clip, tmp_path, name, form):
    assert frames(clip, "-o", tmp_path / name).status == 0
    before = (tmp_path / name).read_bytes()

    assert frames(photo, "-o", tmp_path / name).status == 0
    assert (tmp_path / name).read_bytes() != before
    with Image.open(tmp_path / name) as picture:
        assert picture.format == form


def test_json_tells_source_crop_and_frames(clip):
    done = frames(clip, "--json")

    assert (done.status, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "path": str(clip),
        "kind": "video",
        "width": 64,
        "height": 48,
        "fit": "crop",
        "crop": {"left": 8, "top": 0, "right": 56, "bottom": 48},
        "frames": [{"index": 2 * k, "seconds": round(0.2 * k, 6)} for k in range(8)],
    }


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_json_of_a_still_that_is_seen_as_a_whole_crops_nothing(photo, fit):
    found = json.loads(frames(photo, "--json", "--fit", fit).stdout)

    assert (found["kind"], found["fit"], found["frames"]) == ("image", fit, [])
    assert found["crop"] == {"left": 0, "top": 0, "right": 160, "bottom": 90}


def test_sheet_and_json_come_together(photo, tmp_path):
    done = frames(photo, "--json", "-o", tmp_path / "sheet.png")

    assert json.loads(done.stdout)["width"] == 160
    assert (tmp_path / "sheet.png").exists()


def test_frames_are_listed_where_no_picture_can_be_shown(clip):
    lines = frames(clip, "--start", "0.8").stdout.splitlines()

    assert lines[:3] == [
        "clip.mp4",
        "64 x 48   ·   frames 8 to 15, 0.80 s to 1.50 s   ·   the model sees 56 x 56",
        "crop: the centre 48 x 48, 25% of the picture is cropped away",
    ]
    assert [line.split() for line in lines[5:]] == [[str(8 + k), f"{0.8 + 0.1 * k:.3f}"] for k in range(8)]


def test_medium_on_stdin_is_as_good_as_any(photo):
    assert json.loads(frames("-", "--json", stdin=photo.read_bytes()).stdout)["path"] == "stdin"


def test_no_weights_are_needed(photo, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(BUNDLED_FOLDER / "tiny" / name, folder)

    assert frames(photo, "--json", "-m", folder).status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere.png"], 3, "no such file: 'nowhere.png'"),
        (["photo.png", "-o", "s.gif"], 2, "cannot write 's.gif': give a name that ends in .png, .jpg or .webp"),
        (["photo.png", "-o", "sheet"], 2, "cannot write 'sheet': give a name that ends in .png, .jpg or .webp"),
        (["photo.png", "-o", "no/s.png"], 2, "cannot write 'no/s.png': there is no folder 'no'"),
        (["photo.png", "-o", "folder.png"], 2, "cannot write 'folder.png': it is a folder"),
        (["photo.png", "-o", "photo.png"], 2, "'photo.png' is read by this run, and would be lost: give another name"),
        (["photo.png", "--overwrite"], 2, "--overwrite is about a file: add -o FILE"),
        (["photo.png", "--fit", "squeeze"], 2, "fit is 'squeeze': choose from crop, pad, stretch"),
    ],
)
def test_mistake_is_one_line_with_its_exit_status(photo, monkeypatch, arguments, status, message):
    (photo.parent / "folder.png").mkdir()

    monkeypatch.chdir(photo.parent)

    assert frames(*arguments) == Done(status, "", f"vllava: error: {message}\n")


@pytest.mark.parametrize("preset", ["7b", "7b-4bit"])
def test_preset_needs_no_file_of_its_checkpoint(clip, tmp_path, monkeypatch, preset):
    monkeypatch.chdir(tmp_path)
    command = ("frames", "-m", preset, clip, "--offline", "-o", "sheet.png", "--fit", "pad")

    done = vllava(*command, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))

    assert (done.status, done.stdout, done.stderr) == (0, "", "")
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 4 * 224
    refused = vllava(*command, "--revision", "v2")  # which may prepare pictures in another way
    assert (refused.status, refused.stderr.count("\n")) == (5, 1)


@pytest.mark.parametrize("preset", ["7b", "7b-4bit"])
def test_preset_prepares_pictures_as_the_image_processor_of_its_model_does(preset):
    reference = VideoLlavaImageProcessor().to_dict()  # its defaults are those of the checkpoint

    assert find_pixels(resolve({"model": preset}, presets=presets_folder())) == PixelSettings.from_config(reference)


def test_full_disk_is_one_line(photo, tmp_path):
    (tmp_path / "full.png").symlink_to("/dev/full")
    command = [sys.executable, "-m", "videollava_cli", "frames", "-m", "tiny", photo, "-o", tmp_path / "full.png"]

    done = subprocess.run(command, capture_output=True, check=False)

    message = f"vllava: error: cannot write '{tmp_path}/full.png': No space left on device\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", message)


def test_notes_about_the_medium_go_to_stderr(tmp_path, photo):
    short = write_video(tmp_path / "short.mp4", 3)

    assert frames(short).stderr == f"vllava: note: {str(short)!r} has 3 frames to sample: repeated to make 8\n"
    assert "choose frames of a video, and here is none" in frames(photo, "--start", "1").stderr


def test_ask_takes_the_same_fit_and_refuses_the_same_others(photo):
    done = vllava("ask", "-m", "tiny", photo, "What is it?", "--fit", "squeeze")

    assert (done.status, done.stderr[:34]) == (2, "vllava: error: fit is 'squeeze': c")
    assert find_checkpoint(resolve({"model": "tiny", "fit": "pad"}, presets=presets_folder())).pixels.fit is Fit.PAD


def in_terminal(*arguments, replies=(), columns=100, lines=40, **environment):
    """Run the command in a terminal of some size in cells that gives each reply once it is asked for it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 10 * columns, 20 * lines))
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment = {**inherited, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment}
    command = [sys.executable, "-m", "videollava_cli", "frames", "-m", "tiny", *map(str, arguments)]
    running = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment)
    os.close(theirs)
    shown, waiting = b"", list(replies)
    try:
        while block := os.read(ours, 1 << 16):
            shown += block
            for question, reply in [pair for pair in waiting if pair[0] in shown]:
                waiting.remove((question, reply))
                os.write(ours, reply)
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert (running.communicate()[1], running.returncode) == (b"", 0)
    return shown.decode()


def graphics_in_terminal(pattern, photo, replies):
    """Return what matches a pattern in what is shown; textual-image waits 0.1 s for a reply, which may be late."""
    for _ in range(5):
        if found := re.search(pattern, in_terminal(photo, replies=replies)):
            break
    return found


DEVICE, KITTY = b"\x1b[c", b"a=q,t=d,f=24"  # what a terminal is asked: what it can do, and kitty's own question


def test_terminal_with_sixel_is_shown_the_sheet(photo):
    assert graphics_in_terminal(r'\x1bP0;0;0q"1;1;\d+;\d+', photo, [(DEVICE, b"\x1b[?62;4;22c")])


def test_terminal_with_kittys_graphics_is_shown_the_sheet_in_proportion(photo, tmp_path):
    frames(photo, "-o", tmp_path / "sheet.png")

    replies = [(DEVICE, b"\x1b[?62;22c"), (KITTY, b"\x1b_Gi=1;OK\x1b\\")]
    cells = graphics_in_terminal(r"a=p,i=\d+,c=(\d+),r=(\d+)", photo, replies)
    with Image.open(tmp_path / "sheet.png") as sheet:
        width, height = sheet.size
    assert int(cells[2]) <= 36
    assert int(cells[1]) * 10 / (int(cells[2]) * 20) == pytest.approx(width / height, rel=0.05)


def test_other_terminal_is_shown_half_blocks_of_the_frames_colours_with_their_times(clip):
    shown = in_terminal(clip, replies=[(DEVICE, b"\x1b[?62;22c")])

    assert "0.00 s" in shown
    assert "frame 14\r\n" in shown
    levels = {int(level) for level in re.findall(r"48;2;(\d+);\d+;\d+m▀", shown)}
    assert all(min(abs(level - index * LEVEL_STEP) for level in levels) <= 2 for index in range(0, 16, 2))


@pytest.mark.parametrize("size", [(80, 24), (80, 30), (100, 40), (200, 30), (40, 60), (40, 20), (300, 12)])
def test_half_blocks_fit_the_terminal_with_the_line_of_the_prompt(clip, photo, size):
    columns, lines = size

    for medium in (clip, photo):
        shown = re.sub(r"\x1b\[[\d;]*m", "", in_terminal(medium, columns=columns, lines=lines)).splitlines()
        num_lines = sum(max(1, -(-len(line) // columns)) for line in shown)
        assert max(map(len, shown[-2:])) <= columns
        assert num_lines < lines
        # No larger pictures would fit: the sheet is nearly as high or as wide as the terminal.
        assert num_lines >= 0.6 * lines or max(line.count("▀") for line in shown) >= 0.6 * columns


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb", "COLORTERM": ""}])
def test_terminal_without_colours_is_shown_the_list(clip, environment):
    shown = in_terminal(clip, **environment)

    assert "\x1b" not in shown
    assert "    14     1.400\r\n" in shown


@pytest.mark.parametrize("fit", Fit)
def test_centre_of_each_canvas_is_what_the_model_gets(reader, pixels, tmp_path, fit):
    fitted = replace(pixels, fit=fit)
    pictures = [np.roll(corners(96, 54), shift, axis=1) for shift in range(16)]
    found = reader.find(str(write_frames(tmp_path / "clip.mp4", pictures)))

    canvases = reader.read(found, fitted, transform=Overview()).pixels

    side = pixels.crop_side
    assert np.array_equal(canvases[:, side : 2 * side, side : 2 * side], reader.read(found, fitted).pixels)


def tiles_of(pictures, overview, settings):
    """Return the tiles of a clip of these frames."""
    canvases = np.stack([overview(picture, settings, resize_image) for picture in pictures])
    stamps = tuple(FrameStamp(index, index / 10) for index in range(len(pictures)))
    return make_tiles(Medium("clip.mp4", MediaKind.VIDEO, canvases, stamps), overview, settings)


@given(height=st.integers(1, 300), width=st.integers(1, 300), fit=st.sampled_from(Fit))
def test_picture_of_any_shape_is_in_its_place_on_the_canvas(height, width, fit):
    settings = PixelSettings(20, 16, 1 / 255, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), fit)
    picture = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    overview = Overview()

    [tile] = tiles_of([picture], overview, settings)

    seen = tile.picture.crop(tile.square).reduce(448 // 16)
    assert np.array_equal(np.asarray(seen), to_model(picture, settings, resize_image))


def test_frames_of_different_sizes_share_one_shape(pixels):
    overview = Overview()

    tiles = tiles_of([corners(64, 48), corners(48, 64)], overview, pixels)

    assert overview.size == (64, 48)
    assert len({(tile.picture.size, tile.square) for tile in tiles}) == 1


def test_name_too_long_or_foreign_for_the_sheet_does_not_widen_it(pixels):
    tiles = tiles_of([corners()], Overview(), pixels)

    sheets = [draw_sheet(tiles, title, ("48 x 64",)) for title in ("a.png", "é" * 300 + "世界.png")]

    assert sheets[0].size == sheets[1].size
