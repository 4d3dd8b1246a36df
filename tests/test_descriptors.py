"""What C libraries print on the process's descriptors reaches neither stdout nor a file of ours."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from terminals import Terminal

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CLIP, ANSWER = EXAMPLES / "circle-moves-right.mp4", "A red circle moves from left to right."
VLLAVA = [sys.executable, "-m", "videollava_cli"]
TINY = ["-m", "tiny", "--device", "cpu"]
# A C library that prints, on both descriptors, whenever a medium is opened.
NOISE = """
import ctypes, os, sys
libc = ctypes.CDLL(None)

def print_noise(event, arguments):
    if event == "open" and str(arguments[0]).endswith((".mp4", ".tiff")):
        libc.write(1, b"noise on 1\\n", 11)
        libc.write(2, b"noise on 2\\n", 11)

sys.addaudithook(print_noise)
"""


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Run a line of shell, in which $VLLAVA is a tool with noisy libraries; return its status, stdout and stderr."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(NOISE)
    python_path = os.pathsep.join(filter(None, [str(tmp_path / "hook"), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", python_path)
    monkeypatch.setenv("VLLAVA", " ".join(VLLAVA))
    monkeypatch.chdir(tmp_path)
    shutil.copy(CLIP, "clip.mp4")

    def run(line):
        done = subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def answers(text):
    return [json.loads(line)["answer"] for line in text.splitlines()]


@pytest.fixture
def damaged_picture(tmp_path):
    """Write a picture as a fax, about whose damage libtiff complains by itself, on descriptor 2."""
    path = tmp_path / "damaged.tiff"
    Image.open(EXAMPLES / "triangle.jpg").convert("1").save(path, compression="group4")
    content = bytearray(path.read_bytes())
    content[200:240] = b"\xff" * 40
    path.write_bytes(bytes(content))
    return path


def test_stdout_holds_the_answer_alone_and_stderr_what_libraries_print(shell):
    status, answer, said = shell(f"$VLLAVA ask {' '.join(TINY)} clip.mp4 'What happens?'")

    assert (status, answer) == (0, f"{ANSWER}\n")
    assert {"noise on 1", "noise on 2"} <= set(said.splitlines())


@pytest.mark.parametrize("command", ["ask clip.mp4 'What happens?'", "chat clip.mp4 <question"])
def test_quiet_keeps_what_libraries_print_from_stderr_too(shell, command):
    Path("question").write_text("What happens?\n")

    status, answer, said = shell(f"$VLLAVA {command} {' '.join(TINY)} --quiet")

    assert (status, answer, said) == (0, f"{ANSWER}\n", "")


def test_quiet_still_tells_errors(shell):
    assert shell("$VLLAVA ask nowhere.mp4 'What?' --quiet")[::2] == (3, "vllava: error: no such file: 'nowhere.mp4'\n")


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_file_of_results_holds_results_alone_where_descriptors_are_closed(shell, damaged_picture, closed):
    run = (
        f"$VLLAVA batch damaged.tiff clip.mp4 -q 'What happens?' {' '.join(TINY)} -o out.jsonl --json-summary sum.json"
    )

    assert shell(f"{run} {closed}")[0] == 0
    assert answers(Path("out.jsonl").read_text())[1:] == [ANSWER]
    assert json.loads(Path("s.json").read_text())["answered"] == 2
    assert "2 there before" in shell(run)[2]


def test_what_libtiff_prints_is_shown_but_not_with_quiet(shell, damaged_picture):
    run = "$VLLAVA frames -m tiny damaged.tiff -o sheet.png"

    assert "Fax4Decode: Bad code word" in shell(run)[2]
    assert shell(f"{run} --quiet") == (0, "", "")


def test_lines_on_stdout_are_whole_where_stderr_is_closed(shell):
    status, lines, said = shell(f"$VLLAVA batch clip.mp4 -q 'What happens?' {' '.join(TINY)} 2>&-")

    assert (status, answers(lines), said) == (0, [ANSWER], "")


def test_closed_stdin_is_still_told_as_such(shell):
    assert shell("$VLLAVA ask - 'What?' <&- 2>&1")[1].endswith("stdin is closed: pipe a file into it\n")


def test_output_named_after_stdout_goes_there(shell):
    status, lines, said = shell(f"$VLLAVA batch clip.mp4 -q 'What happens?' {' '.join(TINY)} -o /dev/stdout | cat")

    assert (status, answers(lines), "1 answered" in said) == (0, [ANSWER], True)


def test_answer_to_a_full_disk_is_told(shell):
    status, _, said = shell(f"$VLLAVA ask {' '.join(TINY)} clip.mp4 'What happens?' --quiet >/dev/full")

    assert (status, said) == (1, "vllava: error: cannot write the answer: No space left on device\n")


def test_notes_that_nobody_reads_cost_no_answer(shell):
    run = f"$VLLAVA ask --verbose {' '.join(TINY)} clip.mp4 'What happens?'"

    assert shell(f"{{ {{ {run}; echo $? >&3; }} 2>&1 >&3 3>&3 | true; }} 3>&1")[1] == f"{ANSWER}\n0\n"


def test_terminal_is_still_one_behind_moved_descriptors(shell):
    with Terminal(*VLLAVA[1:], "frames", *TINY[:2], "clip.mp4", "--quiet") as terminal:
        assert terminal.end() == 0

    assert "noise" not in terminal.output
    assert "\x1b[38;2;" in terminal.raw or "\x1b[38;5;" in terminal.raw  # drawn, with colours
