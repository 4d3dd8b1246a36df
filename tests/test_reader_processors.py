"""Readings of several media share processors: never more at work than there are, and the frames are the same."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from media_files import Recipe, write_drawn

from videollava_cli.reader import Reader
from videollava_cli.settings import Settings

GOPS_OF_SIX = Recipe(options={"preset": "ultrafast", "bf": "2", "g": "6", "x264-params": "scenecut=0"})
MPEG4 = Recipe("mpeg4", options={"qscale": "3", "flags": "+qscale", "bf": "2", "g": "12"})


class Counting(threading.Semaphore):
    """A semaphore that knows how often it was acquired, and how many held it at the same time."""

    def __init__(self, value):
        super().__init__(value)
        self.lock = threading.Lock()
        self.num_held = self.most_held = self.num_acquired = 0

    def __enter__(self):
        self.acquire()
        with self.lock:
            self.num_held += 1
            self.num_acquired += 1
            self.most_held = max(self.most_held, self.num_held)

    def __exit__(self, *error):
        with self.lock:
            self.num_held -= 1
        self.release()


@pytest.mark.parametrize("num_processors", [1, 3])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi"])
def test_media_that_share_processors_are_read_as_each_alone(tmp_path, pixels, name, num_processors):
    recipe = MPEG4 if name.endswith("avi") else GOPS_OF_SIX
    paths = [write_drawn(tmp_path / f"{count}-{name}", count, recipe) for count in (40, 61, 48, 50)]
    processors = Counting(num_processors)

    def read(path, **options):
        with Reader(Settings(), num_threads=4, **options) as reader:
            return reader.read(reader.find(str(path)), pixels)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda path: read(path, processors=processors), paths))

    for path, clip in zip(paths, together, strict=True):
        alone = read(path)
        assert clip.stamps == alone.stamps
        assert (clip.pixels == alone.pixels).all()
    assert 1 <= processors.most_held <= num_processors
    assert processors.num_acquired >= (len(paths) if name.endswith("avi") else 8 * len(paths) // 2)
    assert processors.num_held == 0


def test_last_medium_of_many_is_decoded_by_several_processors(tmp_path, pixels):
    path = write_drawn(tmp_path / "clip.mp4", 96, GOPS_OF_SIX)
    at_work = threading.Barrier(2, timeout=60)

    class Meeting(Counting):
        """A semaphore of which the first two holders wait for each other."""

        def __enter__(self):
            super().__enter__()
            if self.num_acquired <= 2:
                at_work.wait()

    with Reader(Settings(), num_threads=2, processors=Meeting(2)) as reader:
        clip = reader.read(reader.find(str(path)), pixels)

    assert [stamp.index for stamp in clip.stamps] == [0, 12, 24, 36, 48, 60, 72, 84]
    assert not at_work.broken


def test_thread_that_gets_a_processor_when_no_gop_is_left_ends(tmp_path, pixels):
    path = write_drawn(tmp_path / "clip.mp4", 96, GOPS_OF_SIX)
    processors = Counting(1)

    with Reader(Settings(), num_threads=8, processors=processors) as reader:
        clip = reader.read(reader.find(str(path)), pixels)

    assert len(clip.stamps) == 8
    assert 8 <= processors.num_acquired <= 16
    assert not [t for t in threading.enumerate() if t.name.startswith("decoder")]


def test_index_error_while_decoding_is_no_end_of_the_work(tmp_path, pixels):
    path = write_drawn(tmp_path / "clip.mp4", 96, GOPS_OF_SIX)

    def transform(rgb, settings, resize):
        raise IndexError("in the middle of decoding")

    with Reader(Settings(), num_threads=2) as reader, pytest.raises(IndexError, match="in the middle of decoding"):
        reader.read(reader.find(str(path)), pixels, transform=transform)
