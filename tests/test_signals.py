"""SIGTERM and SIGHUP, as of Slurm, `docker stop` or a closed terminal: what is in hand is finished, nothing is left."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest
from conversations import only_conversation
from slow_server import slow_server
from terminals import Terminal

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CLIP, QUESTION = EXAMPLES / "circle-moves-right.mp4", "What happens?"
SLOW_CHAT, SLOW_MODEL = (Path(__file__).with_name(name) for name in ("slow_chat.py", "slow_model.py"))
VLLAVA = [sys.executable, "-m", "videollava_cli"]
TINY = ["-m", "tiny", "--device", "cpu"]
STATUSES = [(signal.SIGTERM, 143), (signal.SIGHUP, 129)]
both_signals = pytest.mark.parametrize(("sent", "status"), STATUSES)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Work in a folder, and return the one where temporary files go."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tmp"


@pytest.fixture
def start(scratch):
    """Start the tool as a process; none outlives its test."""
    started = []

    def run(*arguments, program=VLLAVA, **options):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen([*program, *map(str, arguments)], **{**pipes, **options}))
        return started[-1]

    yield run
    for process in started:
        with process:
            process.kill()


def wait_for(is_there, process):
    """Wait until something is there, while a process runs."""
    while not is_there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def end(process, *signals, pause=0.3):
    """Send signals, one after another; return the exit status, what was said, and the seconds it took."""
    began = time.monotonic()
    for number, each in enumerate(signals):
        time.sleep(pause if number else 0)
        process.send_signal(each)
    _, said = process.communicate(timeout=30)
    return process.returncode, said.decode(), time.monotonic() - began


@both_signals
@pytest.mark.parametrize("source", ["-", "pipe"])
def test_copy_of_a_medium_is_removed_at_once(start, scratch, sent, status, source):
    os.mkfifo("pipe")
    process = start("ask", *TINY, source, QUESTION)
    with process.stdin if source == "-" else open("pipe", "wb", buffering=0) as pipe:
        pipe.write(b"x" * (1 << 20))
        wait_for(lambda: list(scratch.glob("vllava-*/fetched-*")), process)
        process.send_signal(sent)
        process.wait(10)

    assert (process.returncode, process.stderr.read(), list(scratch.iterdir())) == (status, b"", [])


@pytest.mark.parametrize("command", ["frames", "chat", "ask"])
def test_every_command_ends_while_a_server_keeps_it_waiting(start, scratch, command):
    asked = Event()
    with slow_server(CLIP, asked) as (url, _):
        process = start(command, "-m", "tiny", url, *([QUESTION] if command == "ask" else []))
        wait_for(asked.is_set, process)

        assert end(process, signal.SIGTERM)[:2] == (143, "")
    assert list(scratch.iterdir()) == []


@both_signals
def test_batch_gives_its_summary_though_a_thread_reads_on(start, scratch, sent, status):
    with slow_server(CLIP) as (url, _):
        process = start("batch", CLIP, url, "-q", QUESTION, *TINY, "-o", "out.jsonl", "--json-summary", "sum.json")
        wait_for(lambda: Path("out.jsonl").exists() and Path("out.jsonl").read_bytes().endswith(b"\n"), process)

        ended, said, seconds = end(process, sent)

    assert (ended, seconds < 10, list(scratch.glob("vllava-*"))) == (status, True, [])
    assert "interrupted at 1 of 2; run the same command to go on: " in said
    assert "Traceback" not in said
    assert json.loads(Path("sum.json").read_text())["answered"] == 1


@pytest.mark.parametrize(("sent", "status"), [*STATUSES, (signal.SIGINT, 130)])
def test_answer_that_is_stopped_ends_its_line(start, scratch, endless_checkpoint, sent, status):
    options = ("-m", endless_checkpoint, "--max-new-tokens", 100_000, "--device", "cpu")
    words = ("token", "ask", EXAMPLES / "triangle.jpg", QUESTION, *options)
    process = start(*words, program=[sys.executable, str(SLOW_MODEL)])
    first = os.read(process.stdout.fileno(), 1)

    process.send_signal(sent)
    rest, said = process.communicate(timeout=30)

    assert (process.returncode, said) == (status, b"")
    assert (first + rest)[-1:] == b"\n" != first


@pytest.fixture
def long_batch(start, endless_checkpoint):
    """Start a batch whose one answer takes longer than anybody waits; wait until it has begun."""
    options = ("-m", endless_checkpoint, "--max-new-tokens", 100_000, "--verbose", "--device", "cpu")
    words = ("batch", EXAMPLES / "triangle.jpg", "-q", QUESTION, "--json-summary", "sum.json", *options)
    process = start("token", *words, program=[sys.executable, str(SLOW_MODEL)])
    while b"questions at once" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(1)
    return process


def test_answers_in_hand_get_five_seconds_and_no_more(long_batch):
    status, said, seconds = end(long_batch, signal.SIGTERM)

    assert (status, 4.5 < seconds < 9) == (143, True)
    assert said.startswith("vllava: note: finishing the answers in hand, for at most 5 s\n")
    assert "interrupted at 0 of 1" in said
    assert json.loads(Path("sum.json").read_text())["answered"] == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP])
def test_second_signal_does_not_wait_for_the_answers_in_hand(long_batch, second):
    status, said, seconds = end(long_batch, signal.SIGTERM, second)

    assert (status, seconds < 4, "interrupted at 0 of 1" in said) == (128 + second, True, True)


def test_answers_in_hand_are_finished(start, scratch):
    clips = [shutil.copy(CLIP, f"{number:03}.mp4") for number in range(60)]
    process = start("batch", *clips, "-q", QUESTION, *TINY, "-o", "out.jsonl", "--batch-size", 4)
    wait_for(lambda: Path("out.jsonl").exists() and Path("out.jsonl").read_bytes().count(b"\n") > 1, process)

    status, said, _ = end(process, signal.SIGTERM)

    lines = [json.loads(line) for line in Path("out.jsonl").read_bytes().splitlines()]
    assert (status, {line["answer"] for line in lines}) == (143, {"A red circle moves from left to right."})
    assert f"interrupted at {len(lines)} of 60" in said


def test_writer_that_nobody_reads_is_ended(start, scratch):
    questions = [word for number in range(40) for word in ("-q", f"What happens? {number}")]
    process = start("batch", CLIP, *questions, *TINY, "--json-summary", "sum.json", pipesize=4096)
    assert os.read(process.stdout.fileno(), 1) == b"{"
    time.sleep(1)  # the pipe is full

    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == 143
    assert time.monotonic() - began < 10
    assert json.loads(Path("sum.json").read_text())["answered"] > 0


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.7])
@pytest.mark.parametrize(("sent", "status"), [*STATUSES, (signal.SIGINT, 130)])
def test_signal_while_torch_is_imported_ends_quietly(start, sent, status, delay):
    process = start("ask", *TINY, CLIP, QUESTION)
    wait_for(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    time.sleep(delay)

    assert end(process, sent)[:2] == (status, "")


def test_second_signal_while_torch_is_imported_ends_at_once(start):
    process = start("ask", *TINY, CLIP, QUESTION)
    wait_for(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(), process)

    status, said, _ = end(process, signal.SIGTERM, signal.SIGINT)

    assert (status in (130, 143), said) == (True, "")


@both_signals
def test_chat_keeps_what_was_said(start, scratch, sent, status):
    process = start("1", "2", *["chat", *TINY, EXAMPLES / "triangle.jpg"], program=[sys.executable, str(SLOW_CHAT)])
    process.stdin.write(b"What shape is it?\nWhat color is it?\n")
    process.stdin.flush()
    process.stdout.readline()
    assert process.stdout.read(5) == b"It is"

    assert end(process, sent)[0] == status
    turns = json.loads(only_conversation(scratch.parent / "state").read_text())["turns"]
    assert [turn["is_stopped"] for turn in turns] == [False, True]


def test_closed_terminal_ends_a_chat_with_what_was_said(scratch):
    with Terminal("-m", "videollava_cli", "chat", *TINY, EXAMPLES / "triangle.jpg") as terminal:
        terminal.expect(r"\[\d+%\] >")
        terminal.type("What shape is it?\r")
        terminal.expect(r"triangle\.[\s\S]*\[\d+%\] >")
        os.kill(terminal.pid, signal.SIGHUP)

        assert terminal.end() == 129
    saved = json.loads(only_conversation(scratch.parent / "state").read_text())
    assert [turn["question"] for turn in saved["turns"]] == ["What shape is it?"]


def test_terminal_that_is_gone_costs_no_summary(scratch):
    shutil.copytree(EXAMPLES, "clips")
    run = ["batch", *["clips"] * 2, "-q", QUESTION, *TINY, "-o", "out.jsonl", "--json-summary", "sum.json"]
    with Terminal("-m", "videollava_cli", *run, "--batch-size", 1) as terminal:
        while not (Path("out.jsonl").exists() and Path("out.jsonl").read_bytes()):
            time.sleep(0.02)

        assert terminal.hang_up() == 129
    assert json.loads(Path("sum.json").read_text())["answered"] > 0


def test_hang_up_that_is_ignored_at_the_start_stays_ignored(start, scratch):
    asked = Event()
    with slow_server(CLIP, asked) as (url, release):
        process = start("ask", *TINY, url, QUESTION, program=["nohup", *VLLAVA])
        wait_for(asked.is_set, process)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        release.set()

        answer, _ = process.communicate(timeout=60)

    assert (process.returncode, answer) == (0, b"A red circle moves from left to right.\n")
