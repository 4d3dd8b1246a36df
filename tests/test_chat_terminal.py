"""`vllava chat` at a terminal: typed, stopped, corrected, killed and taken up, with the bundled model."""

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import vllava
from terminals import CTRL_C, CTRL_D, ENTER, Terminal

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SLOW = Path(__file__).with_name("slow_chat.py")
CLIP, TRIANGLE = EXAMPLES / "circle-moves-right.mp4", EXAMPLES / "triangle.jpg"
PROMPT = r"(?<![^\n])\[(\d+)%\] > ?$"
TINY = ("chat", "-m", "tiny", "--device", "cpu")


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Keep conversations in a folder of the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "vllava"


def chatting(*arguments, **options):
    return Terminal("-m", "videollava_cli", *TINY, *arguments, **options)


def slowly(which, num_pieces, *arguments):
    """Talk to an engine that rests in one of its answers after some pieces."""
    return Terminal(SLOW, which, num_pieces, *TINY, *arguments)


def newest(state):
    """Return the turns of the conversation that was kept last."""
    path = max(state.glob("conversations/*.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(path.read_text())["turns"]


def say(terminal, line, expected=""):
    """Type a line and wait for what is expected, and for the next prompt; return all that came."""
    terminal.type(line + ENTER)
    return terminal.expect(f"{expected}[\\s\\S]*{PROMPT}")


def test_whole_conversation_at_a_terminal(state, tmp_path):
    saved = tmp_path / "saved.json"
    with slowly(0, 4, CLIP) as terminal:
        terminal.expect(PROMPT)
        terminal.type("Describe the video." + ENTER)
        terminal.expect("A red circle moves")
        terminal.type(CTRL_C)
        assert "from" not in terminal.expect(f"note: stopped: the answer stays[\\s\\S]*{PROMPT}")
        say(terminal, "What color is it?", "\nIt is red\\.\n")
        say(terminal, f"/image {TRIANGLE}", "triangle.jpg' is shown with the next question: an image")
        say(terminal, "What is in the image?", "\nA small brown triangle on a white background\\.\n")
        say(terminal, f"/save {saved}", "note: saved in ")
        say(terminal, "/undo", "note: taken back: 'What is in the image\\?' and its answer")
        assert len(newest(state)) == 2
        say(terminal, f"/load {saved}", "note: 3 turns about 'circle-moves-right.mp4', 'triangle.jpg' taken up")
        say(terminal, "What color is the triangle?", "\nIt is \\w+\\.\n")
        terminal.type("/exit" + ENTER)
        assert terminal.end() == 0

    turns = newest(state)
    assert [(turn["answer"], turn["is_stopped"]) for turn in turns[:2]] == [
        ("A red circle moves", True),
        ("It is red.", False),
    ]
    assert len(turns) == 4
    assert "Traceback" not in terminal.output


def test_killed_in_the_middle_of_an_answer_all_finished_turns_are_there(state):
    with slowly(2, 2, CLIP) as terminal:
        terminal.expect(PROMPT)
        say(terminal, "What shape is it?", "\nIt is a circle\\.\n")
        say(terminal, "What color is it?", "\nIt is red\\.\n")
        terminal.type("Which way does it move?" + ENTER)
        terminal.expect("\nIt moves")
        terminal.kill()

    with chatting("-c") as terminal:
        terminal.expect(
            "note: [0-9a-f-]+: 2 turns about 'circle-moves-right.mp4' taken up\n> What color is it\\?\nIt is red\\.\n"
        )
        terminal.expect(PROMPT)
        say(terminal, "Which way does it move?", "\nIt moves from left to right\\.\n")
        terminal.type(CTRL_D)
        assert terminal.end() == 0

    assert len(newest(state)) == 3
    assert sorted(path.name for path in state.iterdir()) == ["conversations", "lines"]
    assert len(list(state.glob("conversations/*"))) == 1


def test_prompt_edits_completes_searches_and_hints(state, tmp_path):
    (tmp_path / "my clip.mp4").write_bytes(CLIP.read_bytes())
    with chatting() as terminal:
        terminal.expect(PROMPT)
        terminal.type("half a question")
        terminal.expect("half a question")
        terminal.type(CTRL_C)
        terminal.expect(f"Ctrl-D or /exit leaves[\\s\\S]*{PROMPT}")
        say(terminal, shlex.quote(str(tmp_path / "my clip.mp4")), "my clip.mp4' is shown with the next question: a vid")
        terminal.type('"""' + ENTER)
        terminal.expect("\\.\\.\\.")
        say(terminal, 'What color is it?"""', "\nIt is red\\.\n")
        terminal.type("\x12red\x7f\x7f\x7fcolor")  # Ctrl-R
        terminal.expect("color")
        terminal.type("\x07")  # Ctrl-G
        terminal.type("/sta\t")
        terminal.expect("/stats")
        say(terminal, "", "context +\\d+ of 256 tokens")
        say(terminal, "/vidoe x", "error: no command '/vidoe'; did you mean '/video'\\?")
        say(terminal, "/video nowhere.mp4", "error: no such file: 'nowhere.mp4'")
        terminal.type(CTRL_D)
        assert terminal.end() == 0

    lines = (state / "lines").read_text()
    assert '+"""' in lines
    assert "+What color" in lines


def test_frames_are_drawn_controls_are_escaped_and_no_save_keeps_nothing(state, tmp_path):
    name = "\x1b[31mred.png"
    (tmp_path / "link.json").write_text(json.dumps(conversation_with_answer(f"a {name} b")))
    with chatting(TRIANGLE, "--no-save") as terminal:
        terminal.expect(PROMPT)
        assert "▀" * 20 in say(terminal, "/frames", "triangle.jpg\n")
        assert "\\x1b[31mred.png" in say(terminal, f"/load {tmp_path / 'link.json'}", "taken up")
        terminal.type(CTRL_D)
        assert terminal.end() == 0

    assert not state.exists()


def conversation_with_answer(answer):
    turn = {"question": "What?", "answer": answer, "media": [], "is_stopped": False}
    head = {"format": "vllava conversation", "version": 1, "model": "tiny", "revision": None, "settings": {}}
    return head | {"turns": [turn], "queued": [], "num_left_out": 0}


def test_answers_alone_go_to_a_pipe_while_a_person_types_without_colour(state):
    theirs, ours = os.pipe()
    with chatting(CLIP, stdout=ours, NO_COLOR="1") as terminal:
        os.close(ours)
        terminal.expect(PROMPT)
        say(terminal, "What color is it?")
        say(terminal, "/stats", "context")
        say(terminal, "/zzz", "error: no command")
        terminal.type(CTRL_D)
        assert terminal.end() == 0

    with open(theirs, "rb") as pipe:
        assert pipe.read() == b"It is red.\n"
    assert not re.search(rb"\x1b\[[0-9;]*(3[0-7]|38;[25]|9[0-7])m", terminal._raw)


def test_medium_on_stdin_leaves_the_questions_to_the_terminal(state):
    with open(CLIP, "rb") as clip, chatting("-", stdin=clip.fileno()) as terminal:
        terminal.expect(PROMPT)
        say(terminal, "What color is it?", "\nIt is red\\.\n")
        terminal.type(CTRL_D)
        assert terminal.end() == 0

    again = vllava(*TINY, "-c")

    note = "note: a medium came on stdin (video) and cannot be read again; the conversation goes on without it"
    assert (again.status, note in again.stderr) == (0, True)


def test_help_imports_no_line_editor_and_no_heavy_library():
    run = [sys.executable, "-X", "importtime", "-m", "videollava_cli", "chat", "--help"]

    done = subprocess.run(run, capture_output=True, check=True, text=True)

    assert "videollava_cli.chat.repl" in done.stderr
    assert not re.search(r"\| +(prompt_toolkit|torch|transformers|numpy|PIL|av)\b", done.stderr)


def test_stdin_that_is_a_terminal_of_another_is_typed_at_without_one_of_ones_own(state):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "videollava_cli", *TINY, CLIP, "--quiet"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, b"What color is it?\n/exit\n")

    said, errors = process.communicate(timeout=120)
    os.close(ours)

    assert (process.returncode, said, errors) == (0, b"It is red.\n", b"")
