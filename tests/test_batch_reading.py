"""Which media `vllava batch` reads at the same time."""

import pytest
from media_files import grey, write_frames
from PIL import Image

from videollava_cli.batch.reading import PIXELS_A_PROCESSOR, pixels_held
from videollava_cli.reader import MediaReader


@pytest.mark.parametrize(
    ("one", "other", "num_processors", "fit"),
    [
        ((1920, 1080), (1920, 1080), 2, False),
        ((1920, 1080), (1280, 720), 2, True),
        ((1920, 1080), (1920, 1080), 16, True),
    ],
)
def test_two_large_clips_are_not_read_at_once_where_one_keeps_all_processors_busy(
    tmp_path, one, other, num_processors, fit
):
    clips = [write_frames(tmp_path / f"{n}.mp4", [grey(0, *size)]) for n, size in enumerate((one, other))]

    with MediaReader() as reader:
        held = sum(pixels_held(reader.find(str(clip)), min(8, num_processors)) for clip in clips)

    assert (held <= PIXELS_A_PROCESSOR * num_processors) is fit


def test_two_photographs_of_16_megapixels_are_read_at_once(tmp_path):
    Image.new("RGB", (4608, 3456)).save(tmp_path / "photo.jpg")

    with MediaReader() as reader:
        held = pixels_held(reader.find(str(tmp_path / "photo.jpg")), num_threads=2)

    assert 2 * held <= 2 * PIXELS_A_PROCESSOR
