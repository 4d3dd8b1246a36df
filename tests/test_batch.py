"""`vllava batch` as people run it: its streams, its file, signals and exit status."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from in_process import vllava
from media_files import write_sound

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
VLLAVA = (sys.executable, "-m", "videollava_cli", "batch")
QUESTION = "What happens?"
CLIPS = {
    "circle-and-triangle.mp4": "A blue circle moves from right to left and an orange triangle grows.",
    "circle-moves-right.mp4": "A red circle moves from left to right.",
    "ring-moves-up.mp4": "A green ring moves from bottom to top.",
    "triangle-disappears.mp4": "A pink triangle disappears.",
}


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Work in a folder that has a folder of four clips."""
    (tmp_path / "clips").mkdir()
    for name in CLIPS:
        shutil.copy(EXAMPLES / name, tmp_path / "clips")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "clips"


@pytest.fixture
def batch(clips):
    """Run the command in this process; return its exit status, its lines and its stderr."""

    def run(*arguments, model="tiny", stdin=b""):
        done = vllava("batch", *arguments, "-m", model, "--device", "cpu", stdin=stdin)
        return done.status, [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    return run


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def start(*arguments, **options):
    """Start the command as a process of its own."""
    command = [*VLLAVA, *map(str, arguments), "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_null_separated_list_on_stdin_gives_right_answers_in_its_order(batch, clips):
    listed = b"".join(os.fsencode(clips / name) + b"\0" for name in CLIPS)

    status, lines, said = batch("--from-file", "-", "-0", "-q", QUESTION, stdin=listed)

    assert [line["answer"] for line in lines] == list(CLIPS.values())
    assert (status, said.startswith("vllava: note: 4 answered; ")) == (0, True)


def test_line_has_the_keys_of_ask_and_those_by_which_it_is_known(batch, clips):
    status, (line,), _ = batch("clips/circle-moves-right.mp4", "-q", QUESTION)

    assert status == 0
    assert line["id"] == line["media"][0]["path"] == "clips/circle-moves-right.mp4"
    assert line["media"][0]["frames"][1] == {"index": 9, "seconds": 0.375}
    assert (line["question"], line["answer"], line["finish_reason"]) == (
        QUESTION,
        CLIPS["circle-moves-right.mp4"],
        "stop",
    )
    assert line["prompt"] == "USER: <video>\nWhat happens? ASSISTANT:"
    assert {"prompt_tokens", "cached_tokens", "new_tokens", "model", "notices"} < set(line)
    assert set(line["timings"]) == {"read_s", "load_s", "prefill_s", "generate_s"}
    found = (clips / "circle-moves-right.mp4").stat()
    assert line["file"] == {"bytes": found.st_size, "modified_us": found.st_mtime_ns // 1000}
    assert line["settings"]["max_new_tokens"] == 512


def test_folder_is_asked_every_question_and_what_is_no_media_is_passed_over(batch, clips):
    (clips / "notes.txt").write_text("Dear diary,\n")
    shutil.copy(EXAMPLES / "triangle.jpg", clips / "no-suffix")

    status, lines, said = batch("clips", "-q", QUESTION, "-q", "What color is it?", "--glob", "*[!4]", "--glob", "r*")

    assert [(line["id"], line["media"][0]["kind"]) for line in lines] == [
        *[("clips/no-suffix", "image")] * 2,
        *[("clips/ring-moves-up.mp4", "video")] * 2,
    ]
    assert lines[3]["answer"] == "It is green."
    assert lines[3]["cached_tokens"] > 100
    assert status == 0
    assert "4 answered, 1 file without video or image passed over; " in said


def test_failed_items_get_a_line_that_says_why_and_the_status_tells(batch, clips):
    (clips / "broken.mp4").write_bytes(b"no video " * 100)
    write_sound(clips / "sound.m4a")

    status, lines, said = batch("clips", "nowhere.mp4", "clips/sound.m4a", "-q", QUESTION, "--glob", "[bcs]*")

    errors = {line["id"]: line["error"] for line in lines if "error" in line}
    assert status == 4
    assert [line["id"] for line in lines] == [
        "clips/broken.mp4",
        "clips/circle-and-triangle.mp4",
        "clips/circle-moves-right.mp4",
        "nowhere.mp4",
    ] + (["clips/sound.m4a"] if "clips/sound.m4a" in errors else [])
    assert errors["nowhere.mp4"] == {"type": "MediaError", "message": "no such file: 'nowhere.mp4'"}
    assert "answer" not in lines[0]
    assert lines[0]["media"] == [{"path": "clips/broken.mp4", "kind": None, "frames": []}]
    assert "note: failed: no such file: 'nowhere.mp4'" in said


def test_questions_file_asks_each_clip_its_own(batch):
    lines = [
        {"path": "clips/ring-moves-up.mp4", "question": "What color is it?", "id": 1},
        {"path": "clips/circle-moves-right.mp4", "question": "Which way does it move?", "id": "two"},
        {"path": "clips/ring-moves-up.mp4", "question": "What happens?" + " Why?" * 200},
    ]
    Path("questions.jsonl").write_text("\n".join(map(json.dumps, lines)))

    status, answered, _ = batch("--questions", "questions.jsonl", "--batch-size", 2)

    assert [(line["id"], line.get("answer")) for line in answered] == [
        (1, "It is green."),
        ("two", "It moves from left to right."),
        ("clips/ring-moves-up.mp4", None),
    ]
    assert answered[2]["error"]["type"] == "UsageError"
    assert status == 4


def test_questions_one_a_line_are_asked_about_every_medium(batch):
    Path("questions").write_text("What color is it?\nWhat happens?\n")

    _, lines, _ = batch("clips/ring-moves-up.mp4", "--questions", "questions", "-q", "Which way does it move?")

    assert [line["question"] for line in lines] == ["Which way does it move?", "What color is it?", "What happens?"]


def test_second_run_asks_nothing_and_what_was_interrupted_goes_on(batch):
    batch("clips", "-q", QUESTION, "-o", "out.jsonl")
    whole = Path("out.jsonl").read_bytes()
    status, _, said = batch("clips", "-q", QUESTION, "-o", "out.jsonl")
    assert Path("out.jsonl").read_bytes() == whole
    assert (status, "0 answered, 4 there before; " in said) == (0, True)

    first_two = whole[: whole.index(b"\n", whole.index(b"\n") + 1) + 1]
    Path("out.jsonl").write_bytes(first_two + b'{"id": "clips/ri')
    batch("clips", "-q", QUESTION, "-o", "out.jsonl", "--json-summary", "summary.json")

    assert [line["answer"] for line in lines_of("out.jsonl")] == list(CLIPS.values())
    summary = json.loads(Path("summary.json").read_text())
    assert (summary["items"], summary["answered"], summary["there_before"], summary["clips"]) == (4, 2, 2, 2)
    assert summary["interrupted"] is False


def test_changed_file_other_question_and_other_settings_are_asked_again(batch, clips):
    run = ("clips/ring-moves-up.mp4", "-o", "out.jsonl")
    batch(*run, "-q", QUESTION)
    os.utime(clips / "ring-moves-up.mp4", ns=(1, 1))
    for again in ((QUESTION,), ("What color is it?",), (QUESTION, "--max-new-tokens", 5)):
        batch(*run, "-q", *again)
        batch(*run, "-q", *again)

    assert [line["new_tokens"] for line in lines_of("out.jsonl")] == [8, 8, 3, 5]


def test_failed_items_are_there_until_they_are_to_be_redone(batch, clips):
    run = ("clips/late.mp4", "clips/ring-moves-up.mp4", "-q", QUESTION, "-o", "out.jsonl")
    (clips / "late.mp4").write_bytes(b"half" * 100)
    stamp = (clips / "late.mp4").stat()
    assert batch(*run)[0] == 4
    status, _, said = batch(*run)
    assert (status, "1 of them failed (--redo-failed asks again)" in said) == (4, True)

    content = (EXAMPLES / "circle-moves-right.mp4").read_bytes()
    (clips / "late.mp4").write_bytes(content)
    os.utime(clips / "late.mp4", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    status = batch(*run, "--redo-failed")[0]

    assert status == 0
    assert [line["answer"] for line in lines_of("out.jsonl")] == [
        CLIPS["ring-moves-up.mp4"],
        CLIPS["circle-moves-right.mp4"],
    ]


def test_overwrite_asks_everything_again(batch):
    for _ in range(2):
        batch("clips", "-q", QUESTION, "-o", "out.jsonl", "--overwrite", "--glob", "ring*")

    assert len(lines_of("out.jsonl")) == 1


def test_dry_run_lists_what_would_be_asked_and_touches_nothing(batch, clips):
    (clips / "notes.txt").write_text("Dear diary,\n")
    batch("clips", "-q", QUESTION, "-o", "out.jsonl", "--glob", "ring*")
    Path("out.jsonl").write_bytes(Path("out.jsonl").read_bytes() + b'{"id"')
    before = Path("out.jsonl").read_bytes()

    status, lines, said = batch("clips", "no.mp4", "-q", QUESTION, "-o", "out.jsonl", "--dry-run", model="nobody/x")
    assert len(lines) == 5
    status, lines, said = batch("clips", "no.mp4", "-q", QUESTION, "-o", "out.jsonl", "--dry-run")

    names = [f"clips/{name}" for name in CLIPS if not name.startswith("ring")]
    assert [(line["path"], line["question"]) for line in lines] == [(name, QUESTION) for name in [*names, "no.mp4"]]
    assert "error" in lines[-1]
    assert "would ask 3, 1 failed, 1 file without video or image passed over, 1 there before" in said
    assert (status, Path("out.jsonl").read_bytes()) == (4, before)


def test_shards_ask_everything_exactly_once(batch):
    parts = [batch("clips", "-q", QUESTION, "--dry-run", "--shard", f"{number}/3")[1] for number in (1, 2, 3)]

    assert sorted(line["path"] for part in parts for line in part) == [f"clips/{name}" for name in CLIPS]


def test_unordered_lines_are_the_same_lines(batch):
    _, lines, _ = batch("clips", "-q", QUESTION, "--unordered", "--batch-size", 1)

    assert sorted(line["answer"] for line in lines) == sorted(CLIPS.values())


def test_odd_names_come_back_from_the_lines_to_the_byte(batch, clips):
    odd = [b"caf\xe9.mp4", "zwei\nZeilen ü.mp4".encode()]
    for name in odd:
        shutil.copy(EXAMPLES / "ring-moves-up.mp4", os.fsencode(clips) + b"/" + name)

    status, _, _ = batch("clips", "-q", QUESTION, "-o", "out.jsonl", "--glob", "caf*", "--glob", "zwei*")
    batch("clips", "-q", QUESTION, "-o", "out.jsonl", "--glob", "caf*", "--glob", "zwei*")

    assert [os.fsencode(line["id"]) for line in lines_of("out.jsonl")] == [b"clips/" + name for name in odd]
    assert [line["answer"] for line in lines_of("out.jsonl")] == [CLIPS["ring-moves-up.mp4"]] * 2
    assert status == 0


def test_repeated_media_are_asked_once_with_a_note(batch):
    _, lines, said = batch("clips", "clips/ring-moves-up.mp4", "-q", QUESTION, "--glob", "ring*")

    assert len(lines) == 1
    assert "note: 1 repeated item is asked once" in said


def test_quiet_says_nothing_and_verbose_says_more(batch):
    assert batch("clips/ring-moves-up.mp4", "nowhere.mp4", "-q", QUESTION, "--quiet")[2] == ""

    said = batch("clips/ring-moves-up.mp4", "-q", QUESTION, "--verbose", "--batch-size", 3)[2]
    assert "tiny on cpu, float32, 3 questions at once" in said
    assert "clips/ring-moves-up.mp4: frames 0 (0.00 s), " in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clips"], "a question is needed: vllava batch clips/ -q "),
        (["-q", QUESTION], "media are needed: vllava batch clips/ -q "),
        (["clips", "-q", " "], "the question is empty: ask something"),
        (["-", "-q", QUESTION], "'-' is no medium here: --from-file - reads a list of media from stdin"),
        (["clips", "-0", "-q", QUESTION], "-0 says how a list is separated: add --from-file LIST"),
        (["--from-file", "-", "--questions", "-"], "--from-file and --questions cannot both be read from stdin"),
        (["--from-file", "nowhere", "-q", QUESTION], "cannot read 'nowhere': No such file"),
        (["clips", "-q", QUESTION, "--shard", "0/2"], "shard is '0/2': give I/N with I from 1 to N"),
        (["clips", "-q", QUESTION, "--batch-size", "0"], "batch size is '0': give auto, or a number from 1 on"),
        (["clips", "-q", QUESTION, "--redo-failed"], "--redo-failed is about a file: add -o OUT.jsonl"),
        (["clips", "-q", QUESTION, "--overwrite"], "--overwrite is about a file: add -o OUT.jsonl"),
        (["clips", "-q", QUESTION, "-o", "o", "--overwrite", "--redo-failed"], "--redo-failed and --overwrite exclude"),
        (["clips", "-q", QUESTION, "-o", "o", "--json-summary", "./o"], "-o and --json-summary are both 'o': give two"),
        (["clips", "-q", QUESTION, "-o", "clips"], "cannot write 'clips': it is a folder"),
        (["clips", "-q", QUESTION, "-o", "no/out"], "cannot write 'no/out': there is no folder 'no'"),
        (["clips", "-q", QUESTION, "-o", "clips/ring-moves-up.mp4"], "'clips/ring-moves-up.mp4' is read by this run"),
        (["clips", "-q", "Why? " * 300], "the prompt has "),
        (["clips", "-q", QUESTION, "--load-4bit", "--load-8bit"], "load_4bit and load_8bit exclude each other"),
        (["clips", "-q", QUESTION, "--flash-attn", "--attn-implementation", "sdpa"], "--flash-attn and --attn-impl"),
    ],
)
def test_mistake_is_told_in_one_line_before_anything_is_asked(batch, arguments, message):
    status, lines, said = batch(*arguments)

    assert (status, lines) == (2, [])
    assert said.startswith(f"vllava: error: {message}")
    assert said.count("\n") == 1


def test_json_questions_beside_others_are_refused(batch):
    Path("questions.jsonl").write_text('{"path": "a.mp4", "question": "Why?"}\n')

    status, _, said = batch("clips", "--questions", "questions.jsonl")

    assert (status, "name media and questions: leave others out" in said) == (2, True)


def test_two_runs_on_one_file_refuse(batch, clips, small_checkpoint):
    slow = start("clips", "-q", QUESTION, "-m", small_checkpoint, "-o", "out.jsonl", "--max-new-tokens", 2000)
    while not Path("out.jsonl").exists() and slow.poll() is None:
        time.sleep(0.05)
    time.sleep(0.2)
    found = batch("clips", "-q", QUESTION, "-o", "out.jsonl")
    slow.kill()
    slow.communicate()

    message = "vllava: error: another process is writing 'out.jsonl': wait for it, or give another -o\n"
    assert found == (2, [], message)


@pytest.fixture
def slow_run(clips, endless_checkpoint):
    """Start answers of random words, one after another, of which each takes a while; wait for the first line."""
    options = ("-m", endless_checkpoint, "--batch-size", 1, "--max-new-tokens", 1000)
    process = start("clips", "-q", QUESTION, "-o", "out.jsonl", *options)
    while not (Path("out.jsonl").exists() and Path("out.jsonl").read_bytes()) and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.1)
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_finishes_the_line_in_hand_and_says_how_to_go_on(slow_run):
    slow_run.send_signal(signal.SIGINT)

    _, said = slow_run.communicate(timeout=60)

    num_lines = len(lines_of("out.jsonl"))
    assert slow_run.returncode == 130
    assert num_lines in (1, 2, 3)
    assert f"interrupted at {num_lines} of 4; run the same command to go on: ".encode() in said
    assert b"Traceback" not in said


def test_second_ctrl_c_ends_at_once(clips, endless_checkpoint):
    options = ("-m", endless_checkpoint, "-o", "out.jsonl", "--verbose", "--max-new-tokens", 100_000)
    process = start(EXAMPLES / "triangle.jpg", "-q", QUESTION, *options)
    while b"questions at once" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.7)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)

    _, said = process.communicate(timeout=20)

    assert process.returncode == 130
    assert b"finishing the answers in hand; Ctrl-C again ends at once" in said
    assert lines_of("out.jsonl") == []


def test_closed_pipe_ends_quietly(clips):
    process = start("clips", *["clips"] * 3, "-q", QUESTION, "-m", "tiny", "--batch-size", 1)
    first = process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        said = process.stderr.read()

    assert json.loads(first)["answer"] == CLIPS["circle-and-triangle.mp4"]
    assert (process.wait(timeout=60), b"error" in said, b"Traceback" in said) == (0, False, False)


def test_full_disk_is_told_keeps_what_is_written_and_is_gone_on_from(batch, clips):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))

    run = ("clips", "-q", QUESTION, "-o", "out.jsonl")
    process = start(*run, "-m", "tiny", preexec_fn=limit)
    _, said = process.communicate(timeout=120)

    assert process.returncode == 1
    assert b"error: cannot write 'out.jsonl': File too large; what it holds is kept: make room" in said
    assert 0 < len(lines_of("out.jsonl")) < 4
    assert batch(*run)[0] == 0
    assert [line["answer"] for line in lines_of("out.jsonl")] == list(CLIPS.values())
