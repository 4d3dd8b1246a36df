"""Text that is no Unicode is refused in one line, whatever it comes from, and never a traceback."""

import json
import shutil
from pathlib import Path

import pytest
from conversations import only_conversation
from in_process import vllava

from videollava_cli.chat.transcript import from_json
from videollava_cli.engine.checkpoint import BUNDLED_FOLDER
from videollava_cli.errors import UsageError
from videollava_cli.prompt import Conversation, Turn
from videollava_cli.settings import Settings

CLIP = Path(__file__).resolve().parents[1] / "examples" / "circle-moves-right.mp4"
ANSWER = "A red circle moves from left to right."
QUESTION = "What happens?"
NO_UNICODE = ("What \udcff?", "\ud83d", "\udc00\ud800", "caf\udce9")
BOM = b"\xef\xbb\xbf"
UTF16 = [("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-32", "UTF-32")]
NESTED = "[" * 200_000 + "]" * 200_000
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
    lines = b"\xff\xfd\xfc?\nWhat happens?\n/system caf\xe9\nWhat color is it?\n"

    done = vllava(*CHAT, "--json", stdin=lines)

    first, *others = map(json.loads, done.stdout.splitlines())
    assert (done.status, first["error"]["type"]) == (2, "UsageError")
    assert [each["answer"] for each in others] == [ANSWER, "It is red."]
    assert "error: system is no Unicode text: 'caf\\udce9'" in done.stderr


@pytest.mark.parametrize("change", [("question", "a\udcff"), ("answer", "\ud800")])
def test_saved_conversation_that_is_no_unicode_is_not_taken_up(folder, change):
    vllava(*CHAT, stdin=b"What happens?\n")
    content = json.loads(only_conversation(folder / "state").read_text())
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


def answers_of(done):
    return [json.loads(line)["answer"] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_lists_of_other_systems_are_read(end):
    Path("list.txt").write_bytes(BOM + b"clip.mp4" + end)
    Path("nulls").write_bytes(BOM + b"clip.mp4\0")
    Path("questions.txt").write_bytes(BOM + b"What happens?" + end + b"What color is it?" + end)

    done = run("batch", "--from-file", "list.txt", "--questions", "questions.txt")

    assert (done.status, answers_of(done)) == (0, [ANSWER, "It is red."])
    assert answers_of(run("batch", "--from-file", "nulls", "-0", "-q", QUESTION)) == [ANSWER]
    assert answers_of(run("batch", "--from-file", "-", "-q", QUESTION, stdin=BOM + b"clip.mp4" + end)) == [ANSWER]


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_files_of_other_systems_are_read_by_every_command(tmp_path, end):
    lines = [b'{"path": "clip.mp4", "question": "What happens?"}', b""]
    Path("q.jsonl").write_bytes(BOM + end.join(lines))
    Path("own.toml").write_bytes(BOM + end.join([b"max_new_tokens = 2", b'system = "Be kind."', b""]))

    assert answers_of(run("batch", "--questions", "q.jsonl")) == [ANSWER]
    (answer,) = answers_of(run("batch", "--questions", "q.jsonl", "--config", "own.toml"))
    assert answer == "A red"
    chat = vllava("chat", "-m", "tiny", "--device", "cpu", "clip.mp4", stdin=BOM + end.join([b"What happens?", b""]))
    assert (chat.status, chat.stdout) == (0, f"{ANSWER}\n")


def test_results_and_conversations_with_the_mark_of_an_editor_are_taken_up(folder):
    run("batch", "clip.mp4", "-q", QUESTION, "-o", "out.jsonl")
    vllava("chat", "-m", "tiny", "--device", "cpu", "clip.mp4", stdin=b"What happens?\n")
    for path in (Path("out.jsonl"), only_conversation(folder / "state")):
        path.write_bytes(BOM + path.read_bytes().replace(b"\n", b"\r\n"))

    assert "1 there before" in run("batch", "clip.mp4", "-q", QUESTION, "-o", "out.jsonl").stderr
    assert vllava("chat", "-c", "--device", "cpu", stdin=b"What color is it?\n").stdout == "It is red.\n"


@pytest.mark.parametrize(("encoding", "name"), UTF16)
def test_utf16_is_an_error_that_says_so(encoding, name):
    Path("list").write_bytes("clip.mp4\n".encode(encoding))
    Path("q").write_bytes("What happens?\n".encode(encoding))
    Path("c.toml").write_bytes("max_new_tokens = 2\n".encode(encoding))

    for done in (
        run("batch", "--from-file", "list", "-q", QUESTION),
        run("batch", "clip.mp4", "--questions", "q"),
        run("ask", "clip.mp4", QUESTION, "--config", "c.toml"),
        run("chat", "clip.mp4", stdin="What happens?\r\nWhy?\r\n".encode(encoding)),
    ):
        assert (done.status, done.stdout) == (2, "")
        assert f"is {name}: save it as UTF-8" in done.stderr


def test_file_in_another_encoding_is_refused_with_the_place():
    Path("q").write_bytes("Qué pasa?\n".encode("latin-1"))
    Path("c.toml").write_bytes("system = 'é'\n".encode("latin-1"))

    assert "is not UTF-8 at byte 3: save it as UTF-8" in run("batch", "clip.mp4", "--questions", "q").stderr
    assert "is not UTF-8 at byte 11: save it as UTF-8" in run("ask", "clip.mp4", QUESTION, "--config", "c.toml").stderr


@pytest.mark.parametrize("start", [b"", BOM, b"\r\n  "])
def test_questions_may_be_a_json_array(start):
    items = [{"path": "clip.mp4", "question": QUESTION}, {"path": "clip.mp4", "question": "What color is it?", "id": 2}]
    Path("items.json").write_bytes(start + json.dumps(items, indent=2).encode())
    Path("texts.json").write_bytes(start + json.dumps([QUESTION, "What color is it?"], indent=1).encode())

    assert answers_of(run("batch", "--questions", "items.json")) == [ANSWER, "It is red."]
    assert answers_of(run("batch", "clip.mp4", "--questions", "texts.json")) == [ANSWER, "It is red."]


def test_plain_question_may_begin_with_a_bracket():
    Path("q").write_text("[Short] What happens?\n[2] What color is it?\n")

    assert run("batch", "clip.mp4", "--questions", "q", "--dry-run").stdout.count('"question": "[') == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "there is no question in 'q'"),
        ('[{"path": "clip.mp4"}]', "item 1 of 'q' has no question"),
        ('["What happens?", 7]', "item 2 of 'q' is no question, as those before it are: 7"),
        ('["What happens?", {"path": "a"}]', "item 2 of 'q' is no question, as those before it are: "),
        ('[{"path": "clip.mp4", "question": "Why?"}, "Why?"]', "item 2 of 'q' is no JSON object: 'Why?'"),
        ('["What happens?", "Why?"', "'q' is no JSON array: "),
        ('[{"path": "clip.mp4", "question": "Why?"},\n]', "'q' is no JSON array: "),
        (NESTED, "'q' is no JSON array: it is nested too deeply"),
        (f'{{"path": "a", "question": {NESTED}}}', "line 1 of 'q' is no JSON object: it is nested too deeply"),
        ('{"id": 1' + "0" * 5000 + "}", "line 1 of 'q' is no JSON object: "),
    ],
)
def test_json_that_holds_no_questions_is_refused_with_its_place(content, message):
    Path("q").write_text(content)

    done = run("batch", "clip.mp4", "--questions", "q")

    assert (done.status, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize("content", [NESTED, f'{{"a": {NESTED}}}', '{"a":' * 200_000])
def test_json_that_is_nested_without_end_is_an_error_wherever_it_is_read(folder, content):
    run("batch", "clip.mp4", "-q", QUESTION, "-o", "out.jsonl")
    Path("out.jsonl").write_text(Path("out.jsonl").read_text() + f"{content}\n")
    Path("c.toml").write_text(f"system = {content}")
    (folder / "state/vllava").mkdir(parents=True)
    (folder / "state/vllava/last.json").write_text(content)

    assert run("batch", "clip.mp4", "-q", QUESTION, "-o", "out.jsonl").status == 2
    assert run("ask", "clip.mp4", QUESTION, "--config", "c.toml").status == 2
    assert vllava("chat", "-c", "--device", "cpu", stdin=b"Why?\n").status == 2


@pytest.mark.parametrize(
    "name",
    ["config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"],
)
@pytest.mark.parametrize("content", [f'{{"a": {NESTED}}}', "{", '{"a": \ud800}'])
def test_small_file_of_a_checkpoint_that_is_no_json_is_one_line(folder, name, content):
    shutil.copytree(BUNDLED_FOLDER / "tiny", folder / "model")
    (folder / "model" / name).write_text(content, errors="surrogatepass")

    done = vllava("ask", "clip.mp4", QUESTION, "-m", "./model", "--device", "cpu")

    assert (done.status, done.stdout, done.stderr.count("\n")) == (5, "", 1)
    assert "./model" in done.stderr
