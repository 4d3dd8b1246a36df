"""An output never takes the place of what a run reads, nor of a file of somebody else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from in_process import vllava
from media_files import write_image
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
QUESTION = "What color is it?"
LINE = {"id": 1, "path": "clips/a.mp4", "question": QUESTION}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with a clip in a folder, and with files that people have."""
    (tmp_path / "clips").mkdir()
    shutil.copy(EXAMPLES / "ring-moves-up.mp4", tmp_path / "clips" / "a.mp4")
    (tmp_path / "hard.jsonl").hardlink_to(tmp_path / "clips" / "a.mp4")
    (tmp_path / "soft.jsonl").symlink_to("clips/a.mp4")
    (tmp_path / "there").symlink_to("clips")
    (tmp_path / "questions.jsonl").write_text(json.dumps(LINE) + "\n")
    (tmp_path / "list").write_text("clips/a.mp4\n")
    (tmp_path / "config.toml").write_text('model = "tiny"\n')
    (tmp_path / "object.json").write_text('{"id": 1, "name": "Ada"}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def batch(*arguments, stdin=b""):
    return vllava("batch", *arguments, "-m", "tiny", "--device", "cpu", stdin=stdin)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


PEOPLES = ["clips/a.mp4", "there/../clips/a.mp4", "hard.jsonl", "soft.jsonl", "questions.jsonl", "config.toml"]


@pytest.mark.parametrize("options", [["-o"], ["--overwrite", "-o"], ["--redo-failed", "-o"], ["--json-summary"]])
@pytest.mark.parametrize("name", [*PEOPLES, "object.json", "list"])
@pytest.mark.parametrize("how", [["clips", "-q", QUESTION], ["clips", "-q", QUESTION, "--dry-run"]])
def test_batch_writes_no_file_that_is_not_its_own(folder, how, options, name):
    before = contents(folder)

    done = batch(*how, *options, name)

    assert (done.status, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"vllava: error: '{name}' ")
    assert contents(folder) == before


@pytest.mark.parametrize("option", ["-o", "--json-summary"])
@pytest.mark.parametrize("how", [["--from-file", "list", "-q", QUESTION], ["clips", "--questions", "list"]])
def test_batch_does_not_write_the_lists_that_it_reads_by_any_name(folder, how, option):
    (folder / "also").hardlink_to(folder / "list")
    before = contents(folder)

    done = batch(*how, option, "also")

    assert (done.status, "'also' is read by this run, and would be lost" in done.stderr) == (2, True)
    assert contents(folder) == before


def test_medium_that_is_empty_gets_no_lines(folder):
    (folder / "clips" / "empty.mp4").touch()

    assert batch("clips", "-q", QUESTION, "-o", "clips/empty.mp4").status == 2
    assert (folder / "clips" / "empty.mp4").read_bytes() == b""


def test_results_and_summaries_are_written_again_and_do_not_take_each_others_place(folder):
    run = ("clips", "-q", QUESTION, "-o", "out.jsonl")
    for more in ([], ["--overwrite"], ["--json-summary", "sum.json"], ["--json-summary", "sum.json"]):
        assert batch(*run, *more).status == 0
    assert batch("clips", "-q", QUESTION, "-o", "sum.json", "--overwrite").status == 2
    assert batch("clips", "-q", QUESTION, "--json-summary", "out.jsonl").status == 2

    assert json.loads(Path("out.jsonl").read_text())["answer"] == "It is green."
    assert json.loads(Path("sum.json").read_text())["there_before"] == 1


def test_results_in_the_folder_that_is_searched_go_on(folder):
    run = (".", "-q", QUESTION, "--glob", "[aos]*", "-o", "out.jsonl", "--json-summary", "sum.json")
    for _ in range(2):
        assert batch(*run).status == 0

    assert Path("out.jsonl").read_bytes().count(b"\n") == 1  # of a.mp4 and the link to it


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_one_file_is_not_both_results_and_summary(folder, make):
    (folder / "out.jsonl").touch()
    make(folder / "sum.json", folder / "out.jsonl")

    done = batch("clips", "-q", QUESTION, "-o", "out.jsonl", "--json-summary", "sum.json")

    assert (done.status, "-o and --json-summary are both" in done.stderr) == (2, True)


def test_summary_goes_to_a_pipe(folder):
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)

    assert batch("clips", "-q", QUESTION, "--json-summary", "pipe").status == 0
    assert json.loads(os.read(reader, 4096))["answered"] == 1
    os.close(reader)


def frames(*arguments, stdin=b""):
    return vllava("frames", "-m", "tiny", *arguments, stdin=stdin)


@pytest.fixture
def photo(tmp_path):
    return write_image(tmp_path / "photo.png", np.full((90, 160, 3), (10, 200, 90), np.uint8))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_frames_replace_a_picture_of_others_only_when_told_to(photo, tmp_path, suffix):
    holiday = tmp_path / f"holiday.{suffix}"
    with Image.open(photo) as picture:
        picture.save(holiday)
    before = holiday.read_bytes()

    done = frames(photo, "-o", holiday)
    assert (done.status, holiday.read_bytes()) == (2, before)
    assert "holds no contact sheet of vllava (--overwrite replaces it): give another name" in done.stderr
    assert frames(photo, "-o", holiday, "--overwrite").status == 0
    assert frames(photo, "-o", holiday).status == 0
    assert holiday.read_bytes() != before


@pytest.mark.parametrize("content", [b"Dear diary,", b"\x89PNG\r\n\x1a\n" + b"x" * 99, b"\xff\xd8\xff\xfe\x00\x0fvl"])
def test_frames_do_not_replace_what_is_no_picture(photo, tmp_path, content):
    (tmp_path / "sheet.png").write_bytes(content)

    assert frames(photo, "-o", tmp_path / "sheet.png").status == 2
    assert (tmp_path / "sheet.png").read_bytes() == content


def test_frames_fill_an_empty_file(photo, tmp_path):
    (tmp_path / "sheet.png").touch()

    assert frames(photo, "-o", tmp_path / "sheet.png").status == 0


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_frames_never_replace_their_medium(photo, tmp_path, make):
    make(tmp_path / "sheet.png", photo)
    before = photo.read_bytes()
    command = [sys.executable, "-m", "videollava_cli", "frames", "-m", "tiny", "-", "-o", photo, "--overwrite"]

    assert frames(photo, "-o", tmp_path / "sheet.png", "--overwrite").status == 2
    with photo.open("rb") as stdin:
        assert subprocess.run(command, stdin=stdin, capture_output=True, check=False).returncode == 2
    assert photo.read_bytes() == before


def test_chat_saves_over_no_pipe_and_no_file_of_others(folder):
    os.mkfifo("pipe")
    (folder / "null").symlink_to("/dev/null")
    before = contents(folder)
    names = ["pipe", "null", "clips/a.mp4", "hard.jsonl", "object.json", "talk.json", "talk.json"]
    lines = "".join(f"/save {name}\n" for name in names)

    done = vllava("chat", "-m", "tiny", "clips/a.mp4", "--no-save", "--device", "cpu", stdin=lines.encode())

    assert done.stderr.count("error: ") == 5
    assert done.stderr.count("it is a pipe or a device") == 2
    assert json.loads(Path("talk.json").read_text())["format"] == "vllava conversation"
    assert {**before, folder / "talk.json": (folder / "talk.json").read_bytes()} == contents(folder)
    assert Path("pipe").is_fifo()
