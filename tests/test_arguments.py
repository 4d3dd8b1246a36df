"""A question that is not quoted, or stands in another place, is understood where nothing else can be meant."""

import json
import shutil
from pathlib import Path

import pytest
from in_process import vllava

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ANSWER = "A red circle moves from left to right."
TAKEN = "vllava: note: the question is taken to be 'What happens?': write it last, in quotes\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder with a clip, a picture, and a file that is called like a word."""
    (tmp_path / "sub").mkdir()
    for name in ("t.mp4", "sub/t.mp4"):
        shutil.copy(EXAMPLES / "circle-moves-right.mp4", tmp_path / name)
    shutil.copy(EXAMPLES / "triangle.jpg", tmp_path / "happens?")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLAVA_MODEL", "tiny")
    monkeypatch.setenv("VLLAVA_DEVICE", "cpu")


@pytest.mark.parametrize("words", [["t.mp4", "What", "happens?"], ["What happens?", "t.mp4"]])
def test_ask_understands_a_question_that_is_not_quoted_or_comes_first(words):
    Path("happens?").unlink()

    done = vllava("ask", *words)

    assert (done.status, done.stdout, done.stderr) == (0, f"{ANSWER}\n", TAKEN)
    assert vllava("ask", *words, "--quiet").stderr == ""


@pytest.mark.parametrize("words", [["sub", "What happens?"], ["What happens?", "sub"], ["sub/t.mp4", "What happens?"]])
def test_batch_understands_a_question_among_the_paths(words):
    done = vllava("batch", *words, "--dry-run")

    asked = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.status, [line["question"] for line in asked]) == (0, ["What happens?"])
    assert asked[0]["path"] == "sub/t.mp4"
    assert ("taken to be" in done.stderr) == (words[0] == "What happens?")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["ask", "t.mp4", "Why?", "-q", "Who?"], 2, "'Why?' stands where media are named: with -q, give each question"),
        (["batch", "sub", "Why?", "-q", "Who?"], 2, "'Why?' stands where media are named: with -q, give each question"),
        (["chat", "t.mp4", "Why?"], 2, "'Why?' stands where media are named: ask it in the conversation, or pipe it"),
        (
            ["ask", "sub", "Why?"],
            3,
            "'sub' is a folder: name the files in it, or ask about all of them by vllava batch",
        ),
        (
            ["-m", "tiny", "ask", "t.mp4", "Why?"],
            2,
            "No such option: -m: options stand behind the command, as in vllava",
        ),
        (["--device", "cpu", "ask", "t.mp4", "Why?"], 2, "No such option: --device: options stand behind the command"),
        (["ask", "t.mp4", "What", "happens?"], 2, "the last argument is the question, and 'happens?' is a file: add"),
        (["ask", "nowhere.mp4", "What", "next?"], 3, "no such file: 'nowhere.mp4'"),
        (["ask", "missing", "t.mp4"], 2, "the last argument is the question, and 't.mp4' is a file: add a question"),
        (["ask", "missing", "What is it?"], 3, "no such file: 'missing'"),
        (["ask", "t.mp4", "gone file", "What is it?"], 3, "no such file: 'gone file'"),
        (["batch", "sub", "t.mp4"], 2, "a question is needed: vllava batch"),
    ],
)
def test_what_is_not_clear_is_told_in_one_line(arguments, status, message):
    done = vllava(*arguments)

    assert (done.status, done.stdout) == (status, "")
    assert done.stderr.splitlines()[-1].startswith(f"vllava: error: {message}")
