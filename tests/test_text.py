"""Text that is no Unicode is refused in one line, whatever it comes from, and never a traceback."""

import json
import shutil
from pathlib import Path

import pytest
from in_process import vllava

from videollava_cli.chat.transcript import from_json
from videollava_cli.errors import UsageError
from videollava_cli.prompt import Conversation, Turn
from videollava_cli.settings import Settings

CLIP = Path(__file__).resolve().parents[1] / "examples" / "circle-moves-right.mp4"
ANSWER = "A red circle moves from left to right."
QUESTION = "What happens?"
NO_UNICODE = ("What \udcff?", "\ud83d", "\udc00\ud800", "caf\udce9")
CHAT = ("chat", "-m", "tiny", "--device", "cpu", "clip.mp4")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in a folder of the test, with a clip."""
    shutil.copy(CLIP, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def run(command, *arguments, **environment):
    """Run a command with the bundled model; an error is one line."""
    done = vllava(command, *arguments, "-m", "tiny", "--device", "cpu", **environment)
    assert done.status in (0, 4) or done.stderr.count("\n") == 1
    return done


@pytest.mark.parametrize("text", NO_UNICODE)
def test_question_that_is_no_unicode_is_refused_in_one_line(text):
    done = run("ask", "clip.mp4", text)

    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("vllava: error: the question is no Unicode text: ")
    assert run("batch", "clip.mp4", "-q", QUESTION, "-q", text).status == 2


@pytest.mark.parametrize("text", NO_UNICODE)
def test_system_text_that_is_no_unicode_is_refused_from_every_source(text):
    arguments = ("ask", "clip.mp4", QUESTION)

    assert run(*arguments, "--system", text).stderr.startswith("vllava: error: system is no Unicode text: ")
    if not text.startswith(("\ud83d", "\udc00")):  # which no environment can hold
        assert run(*arguments, VLLAVA_SYSTEM=text).status == 2
    with pytest.raises(UsageError, match="system is no Unicode text"):
        Settings(system=text)
    with pytest.raises(UsageError, match="the system text is no Unicode text"):
        Conversation((Turn("Why?"),), system=text)


@pytest.mark.parametrize("key", ["revision", "device", "checkpoint"])
def test_other_settings_that_are_no_unicode_are_refused_too(key):
    with pytest.raises(UsageError, match=f"{key} is no Unicode text: 'main.udcff'"):
        Settings(**{key: "main\udcff"})


def test_items_that_are_no_unicode_fail_alone_and_stay_failed():
    lines = [
        {"path": "clip.mp4", "question": "What \ud800?", "id": 1},
        {"path": "clip.mp4", "question": QUESTION, "id": "\udfff"},
        {"path": "\ud800.mp4", "question": QUESTION, "id": 3},
        {"path": "clip.mp4", "question": "caf\udce9", "id": 4},
        {"path": "clip.mp4", "question": "What color is it?", "id": 5},
    ]
    Path("q.jsonl").write_text("\n".join(map(json.dumps, lines)))

    for num_answered in (2, 0):
        done = run("batch", "--questions", "q.jsonl", "-o", "out.jsonl")
        assert done.status == 4
        assert f"{num_answered} answered" in done.stderr

    found = [json.loads(line) for line in Path("out.jsonl").read_bytes().splitlines()]
    assert [line["id"] for line in found] == [1, "\udfff", 3, 4, 5]
    assert [line.get("answer") for line in found] == [None, ANSWER, None, None, "It is red."]
    assert [line["error"]["type"] for line in found if "error" in line] == ["UsageError", "MediaError", "UsageError"]


def test_dry_run_lists_the_items_that_would_fail():
    Path("q.jsonl").write_text(json.dumps({"path": "clip.mp4", "question": "What \ud800?"}))

    done = run("batch", "--questions", "q.jsonl", "--dry-run")

    assert done.status == 4
    assert json.loads(done.stdout)["error"]["type"] == "UsageError"


def test_line_of_a_conversation_that_is_no_unicode_is_refused_and_the_next_one_answered():
    lines = b"\xff\xfe\xfd?\nWhat happens?\n/system caf\xe9\nWhat color is it?\n"

    done = vllava(*CHAT, "--json", stdin=lines)

    first, *others = map(json.loads, done.stdout.splitlines())
    assert (done.status, first["error"]["type"]) == (2, "UsageError")
    assert [each["answer"] for each in others] == [ANSWER, "It is red."]
    assert "error: system is no Unicode text: 'caf\\udce9'" in done.stderr


@pytest.mark.parametrize("change", [("question", "a\udcff"), ("answer", "\ud800")])
def test_saved_conversation_that_is_no_unicode_is_not_taken_up(folder, change):
    vllava(*CHAT, stdin=b"What happens?\n")
    content = json.loads((folder / "state/vllava/last.json").read_text())
    content["turns"][0] |= dict([change])

    with pytest.raises(UsageError, match=f"cannot take up the conversation in 'x': the {change[0]} is no Unicode text"):
        from_json(json.dumps(content).encode(), "x")


@pytest.mark.parametrize("text", NO_UNICODE)
def test_python_programs_get_an_error_too(tiny, text):
    with pytest.raises(UsageError, match="the question is no Unicode text"):
        list(tiny.ask([str(CLIP)], text))
    with pytest.raises(UsageError, match="system is no Unicode text"):
        tiny.ask([str(CLIP)], QUESTION, system=text)
    assert "".join(chunk.text for chunk in tiny.ask([str(CLIP)], "What happens? 🎬 \u200b"))
