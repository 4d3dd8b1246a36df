"""Readings of several media share processors: never more at work than there are, and the frames are the same."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from media_files import Recipe, write_drawn

from videollava_cli.reader import MediaReader, Turns

GROUPS_OF_SIX = Recipe(options={"preset": "ultrafast", "bf": "2", "g": "6", "x264-params": "scenecut=0"})
MPEG4 = Recipe("mpeg4", options={"qscale": "3", "flags": "+qscale", "bf": "2", "g": "12"})


class Counting(Turns):
    """Turns that know how many were held at the same time."""

    def __init__(self, num_processors):
        super().__init__(num_processors)
        self.most_at_once = self.num_turns = 0

    def turn(self, is_wanted):
        """Count the turns that are held."""
        holding = super().turn(is_wanted)
        outer = self

        class Watched:
            def __enter__(self):
                is_had = holding.__enter__()
                outer.num_turns += is_had
                outer.most_at_once = max(outer.most_at_once, outer.num_processors - outer._free)
                return is_had

            def __exit__(self, *error):
                return holding.__exit__(*error)

        return Watched()


@pytest.mark.parametrize("num_processors", [1, 3])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi"])
def test_media_that_share_processors_are_read_as_each_alone(tmp_path, pixels, name, num_processors):
    recipe = MPEG4 if name.endswith("avi") else GROUPS_OF_SIX
    paths = [write_drawn(tmp_path / f"{count}-{name}", count, recipe) for count in (40, 61, 48, 50)]
    turns = Counting(num_processors)

    def read(path, **options):
        with MediaReader(decode_threads=4, **options) as reader:
            return reader.read(reader.find(str(path)), pixels)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda path: read(path, turns=turns), paths))

    for path, clip in zip(paths, together, strict=True):
        alone = read(path)
        assert clip.stamps == alone.stamps
        assert (clip.pixels == alone.pixels).all()
    assert 1 <= turns.most_at_once <= num_processors
    assert turns.num_turns >= (len(paths) if name.endswith("avi") else 8 * len(paths) // 2)
    assert turns._free == num_processors


def test_last_medium_of_many_is_decoded_by_several_processors(tmp_path, pixels):
    path = write_drawn(tmp_path / "clip.mp4", 96, GROUPS_OF_SIX)
    at_work = threading.Barrier(2, timeout=60)

    class Meeting(Turns):
        """Turns of which the first two wait for each other."""

        met = 0

        def turn(self, is_wanted):
            """Meet once another thread wants a turn too."""
            if self.met < 2:
                self.met += 1
                at_work.wait()
            return super().turn(is_wanted)

    with MediaReader(decode_threads=2, turns=Meeting(2)) as reader:
        clip = reader.read(reader.find(str(path)), pixels)

    assert [stamp.index for stamp in clip.stamps] == [0, 12, 24, 36, 48, 60, 72, 84]
    assert not at_work.broken


def test_waiting_ends_when_the_turn_is_no_longer_wanted():
    turns, left = Turns(1), [1]
    outcomes = []

    def wait():
        with turns.turn(lambda: bool(left)) as is_had:
            outcomes.append(is_had)

    with turns.turn(lambda: True) as is_had:
        assert is_had
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        assert not outcomes
        left.clear()
    waiting.join(10)

    assert outcomes == [False]
    with turns.turn(lambda: True) as is_had:
        assert is_had
