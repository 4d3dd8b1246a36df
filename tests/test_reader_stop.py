"""Reading ends between two frames when it is told to stop."""

import threading

import pytest
from media_files import grey, write_animation, write_image, write_video

from videollava_cli.preprocessing import Fit
from videollava_cli.reader import Reader, ReadingStopped
from videollava_cli.settings import Settings


class Pixels:
    """Image processor settings that do something whenever a frame is about to be shrunk."""

    crop_side = 48
    fit = Fit.CROP

    def __init__(self, at_each_frame):
        self.at_each_frame = at_each_frame
        self.num_frames = 0

    @property
    def resize_side(self):
        """Count the frame, do what was asked for, and give the side."""
        self.num_frames += 1
        self.at_each_frame()
        return self.crop_side


@pytest.fixture(params=["mp4", "avi", "gif"])
def clip(request, tmp_path):
    """Write a clip whose frames are all wanted."""
    path = tmp_path / f"clip.{request.param}"
    return write_animation(path, 8) if request.param == "gif" else write_video(path, 8)


def test_stop_ends_a_reading_within_a_frame(clip, reader):
    pixels = Pixels(reader.stop)

    with pytest.raises(ReadingStopped):
        reader.read(reader.find(str(clip)), pixels)

    assert pixels.num_frames == 1


def test_stop_from_another_thread_ends_a_reading_in_the_background(clip, reader):
    shrinking, stopped, outcomes = threading.Event(), threading.Event(), []

    def wait():
        shrinking.set()
        assert stopped.wait(10)

    pixels, found = Pixels(wait), reader.find(str(clip))

    def read():
        with pytest.raises(ReadingStopped) as stop:
            reader.read(found, pixels)
        outcomes.append(stop.type)

    thread = threading.Thread(target=read)
    thread.start()
    assert shrinking.wait(10)
    reader.stop()
    stopped.set()
    thread.join(10)

    assert (outcomes, pixels.num_frames) == ([ReadingStopped], 1)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "picture.png"])
def test_nothing_is_read_after_a_stop(tmp_path, pixels, name):
    path = tmp_path / name
    write = {"mp4": lambda: write_video(path, 8), "gif": lambda: write_animation(path, 8)}
    write.get(path.suffix[1:], lambda: write_image(path, grey(1)))()

    with Reader(Settings()) as reader:
        found = reader.find(str(path))
        reader.stop()

        with pytest.raises(ReadingStopped):
            reader.read(found, pixels)
