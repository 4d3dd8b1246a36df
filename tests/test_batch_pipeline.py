"""From items to outcomes: order, neighbours, slow media, errors, statistics."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from in_process import vllava
from slow_server import slow_server

from videollava_cli.batch.lines import BatchStats, Outcome
from videollava_cli.batch.pipeline import answered
from videollava_cli.batch.work import Item
from videollava_cli.console import duration
from videollava_cli.engine import Chunk, Usage
from videollava_cli.errors import GenerationError, MediaError
from videollava_cli.media import MediaKind, Medium
from videollava_cli.settings import Settings

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
QUESTION = "What happens?"
PICTURE = Medium("picture", MediaKind.IMAGE, np.zeros((1, 2, 2, 3), np.uint8))
USAGE = Usage(5, 0, 2, 0.1, 0.1, "float32")


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Work in a folder that has a folder of three clips."""
    for name in ("circle-moves-right.mp4", "ring-moves-up.mp4", "triangle-disappears.mp4"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        shutil.copy(EXAMPLES / name, tmp_path / "clips")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "clips"


def batch(*arguments):
    done = vllava("batch", *arguments, "-q", QUESTION, "-m", "tiny", "--device", "cpu")
    return done, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("unordered", [False, True])
def test_outcomes_come_in_the_order_of_the_items_or_do_not_wait_for_what_takes_long(clips, unordered):
    (clips / "broken.mp4").write_bytes(b"no video " * 100)
    with slow_server(EXAMPLES / "triangle.jpg") as (url, release):
        threading.Timer(1.5, release.set).start()
        done, lines = batch(url, "clips", *(["--unordered"] if unordered else []), "--json-summary", "summary.json")

    paths = [line["id"] for line in lines]
    assert sorted(paths[1:] if not unordered else paths[:-1]) == sorted(
        str(p.relative_to(p.parents[1])) for p in clips.iterdir()
    )
    assert paths[-1 if unordered else 0] == url
    assert unordered or paths[1:] == sorted(paths[1:])
    assert done.status == 4
    summary = json.loads(Path("summary.json").read_text())
    assert unordered or summary["wait_s"] > 1
    assert (summary["answered"], summary["failed"], summary["clips"]) == (4, 1, 5)


def start(*arguments):
    command = [sys.executable, "-m", "videollava_cli", "batch", *arguments, "-q", QUESTION, "-m", "tiny", "--device"]
    return subprocess.Popen([*map(str, command), "cpu"], stderr=subprocess.PIPE)


def wait_for_lines(number, process):
    while not Path("out.jsonl").exists() or Path("out.jsonl").read_bytes().count(b"\n") < number:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_answers_in_hand_are_written_while_the_next_medium_takes_long(clips):
    with slow_server(EXAMPLES / "triangle.jpg") as (url, release):
        process = start("clips", url, "-o", "out.jsonl")
        wait_for_lines(3, process)
        assert not release.is_set()
        release.set()
        process.communicate(timeout=60)

    assert (process.returncode, Path("out.jsonl").read_bytes().count(b"\n")) == (0, 4)


def test_engine_is_not_loaded_when_nothing_can_be_read(clips):
    (clips / "broken.mp4").write_bytes(b"no video " * 100)
    (clips / "text").write_text("Dear diary,\n")

    done, lines = batch(
        "clips", "nowhere.mp4", "--glob", "[bt][re][ox]*", "--verbose", "--json-summary", "summary.json"
    )

    assert [line["error"]["type"] for line in lines] == ["MediaError"] * 2
    assert "questions at once" not in done.stderr
    assert json.loads(Path("summary.json").read_text())["load_s"] == 0


class ScriptedEngine:
    """Answers the last question with itself in two pieces, in reverse order; fails at `long`."""

    settings = Settings(model="tiny")
    seq_limit = None

    def __init__(self):
        self.requests = []

    def answer(self, requests, *, max_num_seqs):
        """Take all requests first."""
        self.requests = list(requests)
        for request in reversed(self.requests):
            question = request.conversation.turns[-1].question
            if question == "long":
                yield request, Chunk("", "error", error=GenerationError("out of memory"))
                continue
            yield request, Chunk(question[:1])
            yield request, Chunk(question[1:], "stop", USAGE, prompt="USER:")


def outcomes_about(path, *questions, medium=PICTURE, error=None):
    return [Outcome(Item(path, path, question), medium, error=error) for question in questions]


def test_questions_about_a_medium_reach_the_engine_as_neighbours_and_their_answers_whole():
    engine = ScriptedEngine()
    outcomes = [
        *outcomes_about("a", "What?", "Who?"),
        *outcomes_about("bad", "What?", medium=None, error=MediaError("bad")),
        *outcomes_about("b", "What?"),
    ]

    done = list(answered(engine, outcomes, BatchStats(batch_size=4, load_seconds=2.0), max_num_seqs=4))

    assert [request.media[0] for request in engine.requests] == [PICTURE] * 3
    texts = [(outcome.item.path, outcome.answer and outcome.answer.text) for outcome in done]
    assert sorted(texts, key=str) == sorted([("a", "What?"), ("a", "Who?"), ("b", "What?"), ("bad", None)], key=str)
    assert {outcome.load_seconds for outcome in done if outcome.answer} == {2.0}
    assert {outcome.medium.pixels.size for outcome in done if outcome.answer} == {0}


def test_question_that_cannot_be_answered_fails_and_the_others_do_not():
    done = answered(ScriptedEngine(), outcomes_about("a", "long", "short"), BatchStats(), max_num_seqs=None)

    by_question = {outcome.item.question: outcome for outcome in done}
    assert str(by_question["long"].error) == "out of memory"
    assert by_question["long"].medium.name == "picture"
    assert by_question["short"].answer.text == "short"


def test_stats_tell_to_how_many_questions_at_once_full_memory_brought_the_engine():
    engine, stats = ScriptedEngine(), BatchStats(batch_size=100)
    engine.seq_limit = 50

    list(answered(engine, outcomes_about("a", "What?"), stats, max_num_seqs=100))

    assert stats.batch_size == 50


def test_stats_count_items_and_clips_and_files():
    stats = BatchStats(num_items=10, num_there_before=2, num_failed_before=1)
    answer = Chunk("Yes.", "stop", USAGE)

    for question in ("1", "2"):
        stats.add(Outcome(Item("a", "a", question), PICTURE, answer=answer))
        stats.add(Outcome(Item("bad", "bad", question), error=MediaError("bad")))
        stats.add(Outcome(Item("text", "text", question)))

    assert (stats.num_answered, stats.num_failed, stats.num_no_media) == (2, 2, 2)
    assert (len(stats.clips), len(stats.files_without_media), stats.num_new_tokens) == (2, 1, 4)
    assert (stats.num_done, stats.num_failed_in_all) == (8, 3)
    assert stats.others == (
        ", 2 failed, 1 file without video or image passed over, 2 there before, 1 of them failed "
        "(--redo-failed asks again)"
    )


def test_seconds_left_follow_from_the_speed_so_far():
    stats = BatchStats(num_items=4)
    assert "left" not in stats.progress
    stats.start_clock(seconds_ago=3600.0)
    stats.add(Outcome(Item("a", "a", "Why?"), PICTURE, answer=Chunk("", "stop", USAGE)))

    assert stats.progress.endswith(", 3:00 h left")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (187, "3:07 min"), (7500, "2:05 h"), (4e6, "1,111:06 h")]
)
def test_durations_are_written_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def test_progress_in_words():
    stats = BatchStats(num_items=5000, num_there_before=1193, num_failed=1, num_failed_before=2, num_answered=6)
    stats.clips = {str(number) for number in range(43)}
    stats.start_clock(seconds_ago=10.0)

    assert stats.progress == "1,200 of 5,000, 3 failed, 4.3 clips/s, 1:30 h left"
    assert BatchStats(num_items=5).progress == "0 of 5, 0.0 clips/s"
