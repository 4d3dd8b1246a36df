"""`vllava ask` as people run it: its streams and exit status; a process where signals and pipes are the subject."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import vllava
from media_files import write_two_videos

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CLIP = EXAMPLES / "circle-moves-right.mp4"
VLLAVA = (sys.executable, "-m", "videollava_cli", "ask")
MIXED = "note: Video-LLaVA was not trained for several media in one prompt"


def ask(*arguments, **options):
    """Run the bundled model on arguments."""
    return vllava("ask", "-m", "tiny", "--device", "cpu", *arguments, **options)


def rows_of_the_examples_table():
    """Return file, question and answer of every row in the examples' own table."""
    rows = [line.split("|") for line in (EXAMPLES / "README.md").read_text().splitlines() if line.startswith("| `")]
    return [(row[1].strip(" `"), row[5].strip(), row[6].strip()) for row in rows]


@pytest.mark.parametrize(("file", "question", "answer"), rows_of_the_examples_table())
def test_bundled_model_answers_the_question_of_each_example(tiny, file, question, answer):
    assert "".join(chunk.text for chunk in tiny.ask([EXAMPLES / file], question)) == answer


def test_the_films_subtitles_say_what_the_model_sees_in_each_scene(tiny):
    subtitles = [block.splitlines()[2] for block in (EXAMPLES / "film.srt").read_text().split("\n\n")]
    parts = [{"start": float(3 * k), "end": float(3 * k + 3)} for k in range(6)]
    assert [tiny.answer_text(EXAMPLES / "film.mp4", "What happens?", **part) for part in parts] == subtitles


def test_the_film_is_small():
    assert (EXAMPLES / "film.mp4").stat().st_size <= 80_000


def test_answer_alone_is_on_stdout():
    done = ask(CLIP, "Which way does it move?")

    assert (done.status, done.stdout, done.stderr) == (0, "It moves from left to right.\n", "")


def test_bytes_on_stdin_are_a_clip_as_good_as_any():
    done = ask("-", "Which way does it move?", stdin=CLIP.read_bytes())

    assert (done.status, done.stdout) == (0, "It moves from left to right.\n")


def test_image_and_clip_in_one_prompt_are_told_apart_with_one_note():
    done = ask(EXAMPLES / "triangle.jpg", CLIP, "-q", "What happens in the video?", "-q", "What is in the image?")

    assert done.stdout.splitlines() == [
        "A red circle moves from left to right.",
        "A small brown triangle on a white background.",
    ]
    assert done.stderr.count("\n") == 1
    assert MIXED in done.stderr


def test_quiet_says_nothing_on_stderr():
    assert ask(EXAMPLES / "triangle.jpg", CLIP, "What happens in the video?", "--quiet").stderr == ""


def test_at_and_decode_threads_give_the_frames_on_display():
    moments = "0,0.1,1.0,1.01,1.5,2,2.9,2.95"

    done = ask(CLIP, "What happens?", "--json", "--at", moments, "--decode-threads", 2)

    frames = json.loads(done.stdout)["media"][0]["frames"]
    assert [frame["index"] for frame in frames] == [0, 2, 24, 24, 36, 48, 69, 70]
    assert (done.status, done.stderr) == (0, "")


def test_verbose_tells_that_the_first_of_two_videos_is_taken(tmp_path):
    path = write_two_videos(tmp_path / "two.mkv")

    done = ask(path, "What happens?", "--verbose")

    assert f"{str(path)!r} holds 2 videos: the first is taken" in done.stderr
    assert done.status == 0


def test_json_line_holds_what_the_design_promises():
    done = ask(CLIP, "What happens?", "--json")

    line = json.loads(done.stdout)
    assert line["media"][0]["frames"] == [{"index": 9 * k, "seconds": 0.375 * k} for k in range(8)]
    assert (line["media"][0]["path"], line["media"][0]["kind"]) == (str(CLIP), "video")
    assert line["prompt"] == "USER: <video>\nWhat happens? ASSISTANT:"
    assert (line["answer"], line["finish_reason"]) == ("A red circle moves from left to right.", "stop")
    assert set(line["timings"]) == {"read_s", "load_s", "prefill_s", "generate_s"}
    assert {"question", "prompt_tokens", "cached_tokens", "new_tokens", "model"} < set(line)


def test_json_gives_one_line_a_question():
    done = ask(CLIP, "-q", "What happens?", "-q", "What color is it?", "--json")

    answers = [json.loads(line)["answer"] for line in done.stdout.splitlines()]
    assert answers == ["A red circle moves from left to right.", "It is red."]


def test_several_questions_pay_for_the_clip_once():
    done = ask(
        CLIP,
        *(each for text in ("What happens?", "What color is it?", "What is it?") for each in ("-q", text)),
        "--json",
    )

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    counts = [(line["prompt_tokens"], line["cached_tokens"]) for line in lines]
    assert counts[0][1] == 0
    assert [cached for _, cached in counts[1:]] == [counts[1][1]] * 2
    assert all(136 < cached < total < cached + 20 for total, cached in counts[1:])


def test_answers_come_in_the_order_of_their_questions_although_they_end_in_another():
    done = ask(CLIP, "-q", "Describe the video.", "-q", "What color is it?", "-q", "What happens?")

    assert done.stdout.splitlines()[1:] == ["It is red.", "A red circle moves from left to right."]


def test_part_of_a_clip_can_be_asked_about():
    done = ask(CLIP, "What happens?", "--start", "1", "--end", "2", "--json")

    frames = json.loads(done.stdout)["media"][0]["frames"]
    assert [frame["index"] for frame in frames] == [24, 27, 30, 33, 36, 39, 42, 45]


def test_verbose_names_frames_tokens_and_speed():
    said = ask(CLIP, "What happens?", "--verbose", "--no-stream").stderr

    assert "tiny on cpu, float32" in said
    assert "frames 0 (0.00 s), 9 (0.38 s)" in said
    assert re.search(r"\d+ prompt tokens, 0 cached, \d+ new ones, first after .* tokens/s, ended by stop", said)


def test_four_bits_answer_on_the_cpu_without_a_word_on_stderr():
    done = ask(CLIP, "Which way does it move?", "--load-4bit")

    assert (done.stdout, done.stderr) == ("It moves from left to right.\n", "")


def test_two_clips_over_the_context_are_refused_with_the_numbers():
    done = ask(CLIP, CLIP, "What happens?")

    assert (done.status, done.stdout) == (2, "")
    assert re.fullmatch(r"vllava: error: the prompt has \d+ tokens \(272 .* holds 256: .*\n", done.stderr)


def test_clip_damaged_behind_its_header_is_told_in_one_line(tmp_path):
    whole = CLIP.read_bytes()
    start = whole.index(b"mdat") + 4
    (tmp_path / "damaged.mp4").write_bytes(whole[:start] + bytes(len(whole) - start))

    done = ask(tmp_path / "damaged.mp4", "What happens?")

    assert (done.status, done.stdout, done.stderr.count("\n")) == (3, "", 1)


def test_answer_that_was_cut_off_and_window_without_a_clip_are_said():
    done = ask(EXAMPLES / "triangle.jpg", "Describe the image.", "--max-new-tokens", "2", "--start", "1")

    assert done.stderr.splitlines() == [
        "vllava: note: --start, --end and --at choose frames of a video, and here is none",
        "vllava: note: the answer was cut off after 2 tokens: give a larger --max-new-tokens",
    ]


def test_full_disk_is_told_in_one_line():
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*VLLAVA, "-m", "tiny", "--device", "cpu", CLIP, "Hi"], stdout=full, stderr=subprocess.PIPE, check=False
        )

    assert (done.returncode, done.stderr) == (1, b"vllava: error: cannot write the answer: No space left on device\n")


@pytest.fixture
def long_answer(endless_checkpoint):
    """Start an answer of random words that fills the context."""
    command = [*VLLAVA, "-m", str(endless_checkpoint), "--device", "cpu", "--max-new-tokens", "100000", "--temperature"]
    command += ["3", str(EXAMPLES / "triangle.jpg"), "What happens?"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_answer_arrives_while_it_is_written_and_ctrl_c_ends_it_quietly_with_130(long_answer):
    assert long_answer.stdout.read(1)
    assert long_answer.poll() is None

    long_answer.send_signal(signal.SIGINT)
    _, said = long_answer.communicate(timeout=60)

    assert (long_answer.returncode, said) == (130, b"")


def test_closed_pipe_ends_an_answer_quietly(long_answer):
    long_answer.stdout.read(1)
    long_answer.stdout.close()

    said = long_answer.stderr.read()

    assert (long_answer.wait(timeout=60), said) == (0, b"")
