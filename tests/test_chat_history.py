"""Conversations that are kept: listed, taken up by their ids, removed, and never written over each other."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import vllava

from videollava_cli.chat.history import ID, Keeper, conversations
from videollava_cli.chat.transcript import AnsweredTurn, Transcript, write_transcript

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CLIP, TRIANGLE = EXAMPLES / "circle-moves-right.mp4", EXAMPLES / "triangle.jpg"
HEAVY = ("torch", "transformers", "numpy", "av", "PIL", "prompt_toolkit")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Keep conversations in a folder of the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "state" / "vllava"
    (folder / "conversations").mkdir(parents=True)
    return folder


def chat(*arguments, lines=""):
    return vllava("chat", "-m", "tiny", "--device", "cpu", *arguments, stdin=lines.encode())


def talk(question, num_turns=1):
    turn = AnsweredTurn(question, "It is red.")
    return Transcript("tiny", None, {}, (turn,) * num_turns)


def plant(state, name, question, used):
    """Keep a conversation that was used last at this second."""
    path = state / "conversations" / f"{name}.json"
    write_transcript(talk(question), path)
    os.utime(path, (used, used))
    return path


@pytest.fixture
def three(state):
    """Keep three conversations; the one in the middle was used last."""
    names = {"260101-080000-aaaa": 10, "260101-090000-bbbb": 30, "260202-100000-cccc": 20}
    return [plant(state, name, f"What is {name[-4:]}?", used) for name, used in names.items()]


def ids(state):
    return [path.stem for path in conversations(state)]


def test_each_conversation_has_a_file_of_its_own(state):
    for question in ("What shape is it?", "What color is it?"):
        assert chat(CLIP, lines=question).status == 0

    kept = [json.loads(path.read_text())["turns"] for path in conversations(state)]
    assert [[turn["question"] for turn in turns] for turns in kept] == [["What color is it?"], ["What shape is it?"]]
    assert all(re.fullmatch(r"\d{6}-\d{6}-[0-9a-f]{4}", name) for name in ids(state))
    assert {stat.S_IMODE(path.stat().st_mode) for path in conversations(state)} == {0o600}


def test_forgetting_the_turns_begins_another_conversation(state):
    chat(
        CLIP, lines="What shape is it?\n/clear\nWhat color is it?\n/reset\n/image " + str(TRIANGLE) + "\nWhat is it?\n"
    )

    assert [len(json.loads(path.read_text())["turns"]) for path in conversations(state)] == [1, 1, 1]


def test_list_names_them_with_the_last_used_one_first(three):
    done = vllava("chat", "--list")

    assert (done.status, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["ID", "LAST", "USED", "TURNS", "MODEL", "MEDIA", "FIRST", "QUESTION"]
    assert [row.split()[0] for row in rows] == [three[1].stem, three[2].stem, three[0].stem]
    assert rows[0].endswith("What is bbbb?")


def test_list_as_json_has_an_object_a_line(state):
    chat(CLIP, lines="What shape is it?\nWhat color is it?\n")

    (row,) = [json.loads(line) for line in vllava("chat", "--list", "--json").stdout.splitlines()]

    assert row.pop("last_used").startswith("20")
    assert row == {
        **{"id": ids(state)[0], "turns": 2, "model": "tiny"},
        **{"media": ["circle-moves-right.mp4"], "question": "What shape is it?"},
    }


def test_list_of_nothing_says_so(state):
    done = vllava("chat", "--list")

    assert (done.status, done.stdout) == (0, "")
    assert done.stderr == f"vllava: note: no conversation is kept in {str(state)!r}\n"


def test_question_of_several_lines_takes_one_line_of_the_list(state):
    plant(state, "260101-080000-aaaa", "What\n  is\tit?", 1)

    assert vllava("chat", "--list").stdout.splitlines()[1].endswith("  What is it?")


def test_damaged_conversation_is_a_note_in_the_list_and_can_be_removed(state, three):
    three[0].write_text("{}")

    listed = vllava("chat", "--list")
    removed = vllava("chat", "--delete", three[0].stem)

    assert (listed.status, len(listed.stdout.splitlines())) == (0, 3)
    assert listed.stderr.endswith(f"vllava chat --delete {three[0].stem} removes it\n")
    assert (removed.status, removed.stderr) == (0, f"vllava: note: removed {three[0].stem}\n")
    assert not three[0].exists()


@pytest.mark.parametrize("beginning", ["2602", "260202", "260202-1", "260202-100000-cccc", "260202-100000-CCCC"])
def test_id_or_its_beginning_is_taken_up_and_named(three, beginning):
    done = chat("-c", beginning)

    assert (done.status, done.stderr) == (0, "vllava: note: 260202-100000-cccc: 1 turn taken up\n")


def test_id_behind_the_medium_or_before_the_option_is_taken_up_with_the_medium(three, state):
    for words in ((TRIANGLE, "-c", "260202"), ("260202", TRIANGLE, "--continue")):
        done = chat(*words, lines="What color is it?\n")

        assert (done.status, done.stdout) == (0, "It is brown.\n")
    assert len(json.loads(three[2].read_text())["turns"]) == 3


def test_file_that_is_called_like_an_id_is_a_medium(three, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("260202").write_bytes(CLIP.read_bytes())

    done = chat("-c", "260202", lines="What color is it?\n")

    assert (done.status, done.stdout) == (0, "It is red.\n")
    assert done.stderr.startswith("vllava: note: 260101-090000-bbbb: 1 turn about '260202' taken up\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-c", "260303"), "there is no conversation '260303': see vllava chat --list"),
        (("-c", "27"), "there is no conversation '27': see vllava chat --list"),
        (("-c", "260101"), "2 conversations begin with '260101': give more of the id; see vllava chat --list"),
        (("--delete", "nonsense"), "there is no conversation 'nonsense': see vllava chat --list"),
        (("--delete", "260202", "--delete", "2603"), "there is no conversation '2603': see vllava chat --list"),
        (("--list", CLIP), "--list and --delete take no media and begin no conversation"),
        (("--delete", "260202", "-c"), "--list and --delete take no media and begin no conversation"),
    ],
)
def test_ids_that_are_wrong_are_refused_and_nothing_is_removed(three, state, words, message):
    done = chat(*words)

    assert (done.status, done.stdout, done.stderr) == (2, "", f"vllava: error: {message}\n")
    assert len(ids(state)) == 3


def test_an_empty_id_removes_nothing_even_where_one_conversation_is_kept(state):
    plant(state, "260101-080000-aaaa", "What is it?", 10)

    done = vllava("chat", "--delete", "")

    assert (done.status, done.stderr) == (2, "vllava: error: there is no conversation '': see vllava chat --list\n")
    assert ids(state) == ["260101-080000-aaaa"]


def test_only_the_last_used_ones_are_kept(three, state):
    chat(CLIP, "--keep-last", 2, lines="What color is it?\n")

    assert ids(state)[1:] == [three[1].stem]
    assert len(ids(state)) == 2


def test_going_on_with_a_conversation_makes_it_the_last_used_one(three, state):
    chat("-c", "260101-08", "--keep-last", 1, lines="Why?\n")

    assert ids(state)[0] == three[0].stem
    assert len(ids(state)) == 3  # a conversation that goes on is none more


def test_settings_may_switch_saving_off_and_flags_on_again(state, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("save = false\nkeep_last = 1\n")

    chat(CLIP, "--config", config, lines="What color is it?\n")
    assert ids(state) == []
    for _ in range(2):
        chat(CLIP, "--config", config, "--save", lines="What color is it?\n")
    assert len(ids(state)) == 1


def test_conversation_of_0_1_0_is_taken_over(state):
    old = state / "last.json"
    write_transcript(talk("What was it?"), old)
    os.utime(old, (1_700_000_000, 1_700_000_000))

    listed = vllava("chat", "--list").stdout
    taken_up = chat("-c", lines="What color is it?\n")

    assert "2023-11-1" in listed
    assert listed.endswith("What was it?\n")
    assert (taken_up.status, old.exists()) == (0, False)
    assert [name[:6] for name in ids(state)] == [listed.splitlines()[1][:6]]
    assert len(json.loads(conversations(state)[0].read_text())["turns"]) == 2


def test_two_that_go_on_with_one_conversation_never_overwrite_each_other(state, three):
    said = []
    first, second = (Keeper(state, said.append) for _ in range(2))
    for keeper in (first, second):
        keeper.keep_last = 100
        keeper.take_up(three[0])

    first.keep(talk("first", 2))
    second.keep(talk("second", 3))
    first.keep(talk("first", 4))
    second.keep(talk("second", 5))

    assert [len(json.loads(keeper.path.read_text())["turns"]) for keeper in (first, second)] == [4, 5]
    assert first.path == three[0]
    assert said == [
        f"another vllava went on with {three[0].stem}, so this conversation goes on as {second.path.stem}",
    ]


def test_conversation_that_was_removed_meanwhile_is_kept_again(state, three):
    keeper = Keeper(state, pytest.fail)
    keeper.keep_last = 100
    keeper.take_up(three[0])
    three[0].unlink()

    keeper.keep(talk("What?", 2))

    assert keeper.path == three[0]
    assert three[0].exists()


def test_many_processes_at_once_lose_nothing(state):
    program = (
        "import sys; from pathlib import Path; from videollava_cli.chat.history import Keeper\n"
        "from videollava_cli.chat.transcript import AnsweredTurn, Transcript\n"
        "keeper = Keeper(Path(sys.argv[1]), print); keeper.keep_last = 100\n"
        "for n in range(1, 9):\n"
        "    keeper.keep(Transcript('tiny', None, {}, (AnsweredTurn('What?', sys.argv[2]),) * n))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, state, str(number)]) for number in range(8)]

    assert [process.wait() for process in running] == [0] * 8

    kept = [json.loads(path.read_text())["turns"] for path in conversations(state)]
    assert sorted((turns[0]["answer"], len(turns)) for turns in kept) == [(str(number), 8) for number in range(8)]


def test_list_and_delete_import_nothing_heavy(three):
    for words in (("--list",), ("--delete", "260202")):
        command = [sys.executable, "-X", "importtime", "-m", "videollava_cli", "chat", *words]
        done = subprocess.run(command, capture_output=True, check=True, text=True)

        names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
        assert "videollava_cli" in names
        assert not names & set(HEAVY)


@pytest.mark.parametrize("word", ["clip.mp4", "triangle", "261201x", "-", "261201-09:15"])
def test_words_that_are_no_ids(word):
    assert not ID.fullmatch(word)


def test_folder_that_may_not_be_written_is_an_error_once_and_the_conversation_goes_on(state):
    (state / "conversations").rmdir()
    (state / "conversations").write_text("a file where the folder should be")

    done = chat(CLIP, lines="What shape is it?\nWhat color is it?\n")

    assert (done.status, done.stdout) == (0, "It is a circle.\nIt is red.\n")
    assert done.stderr.count("vllava: error: cannot write ") == 1
