"""Conversations on disk: written whole or not at all, private, and refused in one line when they are damaged."""

import json
import os
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videollava_cli.chat.transcript import (
    AnsweredTurn,
    ShownMedium,
    Transcript,
    from_json,
    is_transcript,
    make_state_folder,
    read_transcript,
    to_json,
    write_transcript,
)
from videollava_cli.errors import OutputError, UsageError
from videollava_cli.media import MediaKind

CLIP = ShownMedium("/clips/größe \udcff.mp4", MediaKind.VIDEO, 1.5, None, None, "crop", 56, "00ff")
CONVERSATION = Transcript(
    model="tiny",
    revision=None,
    settings={"seed": 1, "system": None},
    turns=(AnsweredTurn("What?", "A 世界.\n", (CLIP,)), AnsweredTurn("Why?", "Beca", is_stopped=True)),
    queued=(replace(CLIP, name="-", kind=MediaKind.IMAGE),),
    num_left_out=1,
)


def test_conversation_is_read_as_it_was_written():
    assert from_json(to_json(CONVERSATION), "x") == CONVERSATION


@given(st.text(st.characters(exclude_categories=())).filter(str.strip), st.text(st.characters(exclude_categories=())))
def test_any_question_and_answer_can_be_written_and_read(question, answer):
    transcript = replace(CONVERSATION, turns=(AnsweredTurn(question, answer),))

    assert from_json(to_json(transcript), "x") == transcript


def test_file_is_json_that_people_can_read():
    text = to_json(CONVERSATION).decode()

    assert "A 世界." in text
    assert json.loads(text)["version"] == 1


def changed(**values):
    return json.dumps({**json.loads(to_json(CONVERSATION)), **values}).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"format": ', "Expecting value"),
        (b"[]", "no conversation of vllava"),
        (b"{}", "no conversation of vllava"),
        (b"\xff\xfe\x00", ""),
        (b"[" * 100_000, ""),
        (changed(version=2), "its version is 2, and this vllava reads 1"),
        (changed(turns=None), "turns is None"),
        (changed(turns=[1]), "1 stands where an object belongs"),
        (changed(turns=[{"question": "", "answer": "", "media": [], "is_stopped": False}]), "a question is empty"),
        (changed(turns=[{"answer": ""}]), "question is missing"),
        (changed(num_left_out=True), "num_left_out is True"),
        (changed(queued=[{"name": "a", "kind": "sound"}]), "'sound' is not a valid MediaKind"),
    ],
)
def test_damaged_conversation_is_refused_in_one_line(content, reason):
    with pytest.raises(UsageError) as refusal:
        from_json(content, "last.json")

    assert str(refusal.value).startswith(f"cannot take up the conversation in 'last.json': {reason}")
    assert "\n" not in str(refusal.value)


@given(st.data())
def test_no_damage_to_a_conversation_raises_anything_else(data):
    content = bytearray(to_json(CONVERSATION))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))

    with suppress(UsageError):
        from_json(bytes(content), "x")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_folder_and_files_are_the_owners_alone(tmp_path):
    folder = tmp_path / "state" / "vllava"
    before = os.umask(0)
    try:
        make_state_folder(folder)
        write_transcript(CONVERSATION, folder / "last.json")
    finally:
        os.umask(before)

    assert [mode(path) for path in (folder, folder / "last.json", folder / "lines")] == [0o700, 0o600, 0o600]


def test_folder_that_others_could_read_is_closed(tmp_path):
    folder = tmp_path / "vllava"
    folder.mkdir(mode=0o755)
    (folder / "lines").touch(0o644)

    make_state_folder(folder)

    assert (mode(folder), mode(folder / "lines")) == (0o700, 0o600)


def test_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(OutputError, match="nothing is kept of this conversation: "):
        make_state_folder(tmp_path / "file" / "vllava")


def test_writing_that_fails_leaves_the_old_conversation_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "last.json"
    write_transcript(CONVERSATION, path)

    def fail(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"cannot write '.*last\.json': No space left on device"):
        write_transcript(replace(CONVERSATION, turns=()), path)

    assert read_transcript(path) == CONVERSATION
    assert os.listdir(tmp_path) == ["last.json"]


def test_file_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path, monkeypatch):
    calls = []
    sync, replace_file = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("sync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace_file(*names))[1])

    write_transcript(CONVERSATION, tmp_path / "a.json")

    assert calls == ["sync", "replace", "sync"]


def test_a_conversation_is_told_from_other_files(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"precious")
    write_transcript(CONVERSATION, tmp_path / "old.json")

    assert is_transcript(tmp_path / "old.json")
    assert not is_transcript(tmp_path / "clip.mp4")


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="No such file or directory"):
        read_transcript(tmp_path / "none.json")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "pipe" if kind == "pipe" else "/dev/zero"
    if kind == "pipe":
        os.mkfifo(path)

    with pytest.raises(UsageError, match="is no file: name one that /save wrote"):
        read_transcript(Path(path))
