"""`scripts/faults.py batch` and what `scripts/bench batch` measures against: both do what they say."""

import json
import subprocess
import sys
from pathlib import Path

import faults
import pytest
from benchmarks import batch_clips

from videollava_cli.engine.checkpoint import BUNDLED_FOLDER
from videollava_cli.reader import MediaReader

ROOT = Path(__file__).resolve().parents[1]
ROUND = faults.Round("broken", 0, 8, 1)


def test_killed_and_starved_runs_leave_every_item_exactly_once():
    options = ["--clips", "10", "--kills", "1", "--full", "1", "--kinds", "broken", "disk"]

    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "faults.py", "batch", *options], capture_output=True, check=False, text=True
    )

    assert "every item exactly once, every line JSON, every answer right" in done.stdout
    assert "disk: 1 files, 10 lines, 2 processes, 0 killed, 1 stopped by a full disk, 0 wrong" in done.stdout
    assert done.returncode == 0


@pytest.fixture
def right_lines():
    names = list(faults.EXAMPLES)
    lines = [{"id": f"clips/{n:04}-{names[n % 4]}", "answer": faults.EXAMPLES[names[n % 4]]} for n in range(8)]
    for number in (0, 5):
        del lines[number]["answer"]
        lines[number]["error"] = {}
    return lines


def wrong_with(lines, path, end="\n"):
    path.write_text("\n".join(map(json.dumps, lines)) + end)
    return list(faults.check(ROUND, path))


def test_violations_are_found(right_lines, tmp_path):
    path = tmp_path / "out.jsonl"
    first, second, *rest = right_lines

    assert wrong_with(right_lines, path) == []
    assert wrong_with(right_lines[1:], path) == ["0000-circle-moves-right.mp4 is there 0 times"]
    assert wrong_with([first, *right_lines], path) == ["0000-circle-moves-right.mp4 is there 2 times"]
    assert wrong_with([first, second | {"answer": "No."}, *rest], path) == ["0001-ring-moves-up.mp4: 'No.'"]
    assert wrong_with([first | {"error": 1, "answer": 1}, {**second, "error": 1}, *rest], path)
    assert wrong_with(right_lines, path, '\n{"id"')[:1] == ["the last line has no end"]


def test_clips_of_the_benchmark_are_mixed_and_say_what_they_are(tmp_path):
    clips = batch_clips.CLIPS
    assert (len(clips), min(c.seconds for c in clips), max(c.seconds for c in clips)) == (64, 5, 60)
    assert len({clip.size for clip in clips}) == 8
    assert sum(clip.is_vp9 for clip in clips) == 16

    batch_clips.encode(clips[0], tmp_path / clips[0].name)
    with MediaReader() as reader:
        assert reader.find(str(tmp_path / clips[0].name)).form == "video"


def test_documented_loop_gives_the_same_answer():
    command = [sys.executable, "-m", "benchmarks.documented", "loop", BUNDLED_FOLDER / "tiny", "What happens?", "64"]

    done = subprocess.run(
        [*command, ROOT / "examples" / "ring-moves-up.mp4", ROOT / "examples" / "star-grows.webm"],
        cwd=ROOT / "scripts",
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )

    assert json.loads(done.stdout.splitlines()[1])["answer"] == "A yellow star grows."
