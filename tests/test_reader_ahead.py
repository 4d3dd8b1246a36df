"""Media are read ahead of the loop that uses them: in order or as they come, bounded in number and memory."""

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
from media_files import grey, indices_of, write_frames, write_image, write_video
from PIL import Image

from videollava_cli.errors import MediaError
from videollava_cli.reader import PIXELS_A_PROCESSOR, Reader, ReadingStopped
from videollava_cli.reader.read_ahead import PixelBudget, pixels_held
from videollava_cli.settings import Settings


@pytest.fixture
def many():
    """Make a reader of many media, which share two processors."""
    with Reader.of_many(Settings(), num_processors=2) as reader:
        yield reader


@pytest.fixture
def images(tmp_path):
    """Write ten pictures whose level tells their number."""
    return [str(write_image(tmp_path / f"{number}.png", grey(number))) for number in range(10)]


def numbers_of(results):
    """Return the number that each picture tells, None where there is an error."""
    return [indices_of(result.medium)[0] if result.medium else None for result in results]


def test_results_come_in_the_order_of_their_items(many, images, pixels):
    with many.read_ahead(images, pixels, source=str) as ahead:
        items, results = zip(*ahead, strict=True)

    assert list(items) == images
    assert numbers_of(results) == list(range(10))
    assert ahead.seconds == pytest.approx(sum(result.seconds for result in results))


def test_unordered_results_come_with_their_items_as_they_are_there(many, images, pixels, tmp_path):
    os.mkfifo(pipe := str(tmp_path / "pipe"))

    came = []
    with many.read_ahead([pipe, *images[1:]], pixels, source=str, is_ordered=False) as ahead:
        for item, result in ahead:
            came.append((item, numbers_of([result])[0]))
            if len(came) == 9:
                Path(pipe).write_bytes(Path(images[0]).read_bytes())

    assert came == [*zip(images[1:], range(1, 10), strict=True), (pipe, 0)]


def test_wait_for_the_next_result_can_be_bounded(many, images, pixels, tmp_path):
    os.mkfifo(pipe := str(tmp_path / "pipe"))

    with many.read_ahead([pipe, images[1]], pixels, source=str) as ahead:
        assert not ahead.is_ready(0.2)
        Path(pipe).write_bytes(Path(images[0]).read_bytes())
        assert ahead.is_ready(60)
        assert numbers_of(result for _, result in ahead) == [0, 1]
        assert not ahead.is_ready(60)


def test_error_comes_with_its_item_and_says_whether_there_was_a_medium(many, tmp_path, pixels):
    text, damaged = tmp_path / "text.txt", write_image(tmp_path / "damaged.png", grey(1))
    text.write_text("No medium.")
    damaged.write_bytes(damaged.read_bytes()[:60])
    names = [str(text), str(damaged), str(write_image(tmp_path / "good.png", grey(3)))]

    with many.read_ahead(names, pixels, source=str) as ahead:
        results = [result for _, result in ahead]

    assert numbers_of(results) == [None, None, 3]
    assert [result.is_found for result in results] == [False, True, True]
    assert "text.txt" in str(results[0].error)
    assert "damaged.png" in str(results[1].error)


def test_number_of_media_ahead_is_bounded_and_can_change_meanwhile(many, images, pixels):
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield images[number % 10]

    with many.read_ahead(items(), pixels, source=str) as ahead:
        assert len(taken) == 2 + 32
        results = iter(ahead)
        next(results)
        assert len(taken) == 1 + 2 + 32
        ahead.num_ahead = 5
        for _ in range(50):
            next(results)
        assert len(taken) == 51 + 2 + 5
        ahead.num_ahead = 50
        next(results)
        assert len(taken) == 52 + 2 + 50


def test_files_that_were_found_before_are_read_and_stay(tmp_path, pixels):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = write_image(tmp_path / "picture.png", grey(5)).read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()

    with Reader(Settings()) as reader:
        file = reader.find(str(pipe))
        writer.join()
        with reader.read_ahead([file], pixels, source=lambda file: file) as ahead:
            [medium] = ahead.result()
            assert ahead.result() == [medium]
        assert file.is_fetched
        assert file.path.exists()
        file.close()
        assert not file.path.exists()

    assert indices_of(medium) == [5]


def test_what_was_fetched_goes_as_soon_as_it_is_read(many, tmp_path, pixels):
    pipes = [tmp_path / f"pipe{number}" for number in range(2)]
    for number, pipe in enumerate(pipes):
        os.mkfifo(pipe)
        content = write_image(tmp_path / "picture.png", grey(number)).read_bytes()
        threading.Thread(target=pipe.write_bytes, args=(content,)).start()
    tempfile.tempdir = str(tmp_path)

    try:
        with many.read_ahead(map(str, pipes), pixels, source=str) as ahead:
            results = [result for _, result in ahead]
            left = [path for folder in tmp_path.glob("vllava-*") for path in folder.iterdir()]
    finally:
        tempfile.tempdir = None

    assert numbers_of(results) == [0, 1]
    assert left == []


def test_failure_is_known_while_others_are_still_being_read(many, tmp_path, pixels):
    os.mkfifo(pipe := tmp_path / "pipe")
    missing = str(tmp_path / "missing.mp4")

    with many.read_ahead([missing, str(pipe)], pixels, source=str) as ahead:
        end = time.monotonic() + 60
        while not ahead.done() and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(MediaError, match=r"no such file: .*missing\.mp4"):
            ahead.result()
        pipe.write_bytes(write_image(tmp_path / "picture.png", grey(1)).read_bytes())


@pytest.mark.parametrize("leave", ["by a break", "by an error"])
def test_leaving_stops_what_is_being_read(many, tmp_path, pixels, leave):
    clips = [str(write_video(tmp_path / f"{number}.mp4", 8)) for number in range(40)]

    with contextlib.suppress(ZeroDivisionError), many.read_ahead(clips, pixels, source=str) as ahead:
        for _ in ahead:
            if leave == "by a break":
                break
            raise ZeroDivisionError

    with pytest.raises(ReadingStopped):
        many.read(many.find(clips[0]), pixels)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("reader", "decoder"))]


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

    with Reader(Settings()) as reader:
        held = sum(pixels_held(reader.find(str(clip)), min(8, num_processors)) for clip in clips)

    assert (held <= PIXELS_A_PROCESSOR * num_processors) is fit


def test_two_photographs_of_16_megapixels_are_read_at_once(tmp_path):
    Image.new("RGB", (4608, 3456)).save(tmp_path / "photo.jpg")

    with Reader(Settings()) as reader:
        held = pixels_held(reader.find(str(tmp_path / "photo.jpg")), num_threads=2)

    assert 2 * held <= 2 * PIXELS_A_PROCESSOR


def test_budget_lets_a_large_share_wait_and_be_served_before_later_ones():
    budget, order = PixelBudget(10), []

    def take(name, amount):
        with budget.share(amount):
            order.append(name)

    with budget.share(6):
        threads = [threading.Thread(target=take, args=args) for args in (("large", 100), ("small", 1))]
        for thread in threads:
            thread.start()
            thread.join(0.1)
        assert order == []
    for thread in threads:
        thread.join()

    assert order == ["large", "small"]
