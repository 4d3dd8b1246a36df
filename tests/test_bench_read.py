"""`scripts/bench read`: clips that tell their frames' numbers, and readers that are judged by them."""

import json
from argparse import Namespace

import bench
import numpy as np
import pytest
from benchmarks import clips, read
from benchmarks.clips import BenchClip, Recipe, copy_packets, encode
from benchmarks.judging import RIGHT, draw_marker, marker_judge, read_marker, sequential_judge
from benchmarks.methods import read_ours
from benchmarks.read import install_peer
from media_files import MPEG4, grey, write_frames

NUM_FRAMES = 30
TINY = Recipe((320, 180), NUM_FRAMES)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "clip.mp4"
    encode(TINY, path)
    return path


@pytest.mark.parametrize("index", [0, 1, 7, 8191, 90_000, 2**20 - 1])
@pytest.mark.parametrize("shape", [(224, 224), (180, 320), (1080, 1920), (640, 360)])
def test_marker_tells_the_number_that_was_drawn(index, shape):
    luma = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    draw_marker(luma, index)

    side, top, left = min(shape), (shape[0] - min(shape)) // 2, (shape[1] - min(shape)) // 2
    assert read_marker(np.stack([luma[top : top + side, left : left + side]] * 3, axis=-1)) == index


def test_picture_without_a_marker_tells_nothing():
    assert read_marker(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)) is None


def test_our_reader_and_the_documented_one_are_measured_and_right(clip, capsys):
    options = ["--clips", "--methods", "vllava", "documented", "--threads", "1", "--runs", "1", "--json"]

    bench.main(["read", str(clip), *options])

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["clip"], row["method"], row["threads"]) for row in rows] == [
        (clip.name, "vllava", 1),
        (clip.name, "documented", 1),
    ]
    assert [row["verdict"] for row in rows] == [RIGHT, RIGHT]
    assert all(0 < row["seconds"][0] < 60 and 50 < row["peak_mb"][0] < 2000 for row in rows)


def test_reader_that_fails_is_a_row_that_says_why(clip, tmp_path):
    copy_packets(clip, tmp_path / "clip.mkv")

    environments = {"documented": install_peer("documented")}
    options = Namespace(runs=1, limit=120)
    [row] = read.measure(tmp_path / "clip.mkv", marker_judge(NUM_FRAMES), environments, 1, options)

    assert row["verdict"] == "fails: ZeroDivisionError: float division by zero"


def test_frames_of_another_place_are_wrong(clip):
    frames = read_ours(str(clip), 1)

    assert marker_judge(NUM_FRAMES)(frames) == RIGHT
    assert marker_judge(NUM_FRAMES + 8)(frames).startswith("WRONG: 0 3 7 11 15 18 22 26 for 0 4 9 14")
    assert marker_judge(NUM_FRAMES)(frames[:7]) == "WRONG: shape (7, 224, 224, 3)"


def test_file_without_markers_is_judged_by_decoding_all_of_it(tmp_path):
    path = write_frames(tmp_path / "clip.mkv", [grey(index, 96, 96) for index in range(24)], MPEG4)
    frames = read_ours(str(path), 1)

    assert sequential_judge(path)(frames) == RIGHT
    assert sequential_judge(path)(frames[::-1]).startswith("WRONG: 21 18 15 12 9 6 3 0 for 0 3 6 9")


def test_clip_is_made_once_and_anew_when_its_recipe_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "FOLDER", tmp_path)

    first, again = (clips.made(BenchClip("a.mp4", TINY)) for _ in range(2))
    other = clips.made(BenchClip("a.mp4", Recipe((320, 180), 8)))

    assert first == again != other
    assert sorted(tmp_path.iterdir()) == sorted((first, other))
