"""What `vllava batch` finds: media that are missing are told, and a file under another name is the same file."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from in_process import vllava

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
QUESTION = "What color is it?"
NOBODY = 65534


def batch(*arguments, stdin=b"", questions=("-q", QUESTION)):
    done = vllava("batch", *arguments, *questions, "-m", "tiny", "--device", "cpu", stdin=stdin)
    return done.status, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with clips in a folder, and folders of which nothing is to be had."""
    (tmp_path / "sub").mkdir()
    for name in ("ring-moves-up.mp4", "circle-moves-right.mp4"):
        shutil.copy(EXAMPLES / name, tmp_path / "sub")
    for name in ("empty/deeper/still", "hidden", "texts/more", "loop"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "hidden" / ".clip.mp4").touch()
    (tmp_path / "texts" / "a.txt").write_text("Dear diary,\n")
    (tmp_path / "texts" / "more" / "b").write_text("Dear diary,\n")
    (tmp_path / "loop" / "again").symlink_to(tmp_path / "loop")
    (tmp_path / "list").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], "nothing found in 'empty': no files, hidden ones apart"),
        (["hidden", "loop"], "nothing found in 'hidden', 'loop': no files, hidden ones apart"),
        (["sub", "--glob", "*.avi"], "nothing found in 'sub': no file matches --glob '*.avi'"),
        (["empty"] * 5, "nothing found in 'empty', 'empty', 'empty' and 2 more: no files, hidden ones apart"),
        (["empty", "--shard", "1/2"], "nothing found in 'empty': no files, hidden ones apart"),
        (["texts"], "nothing found: 2 files, and no video or image"),
        (["texts", "empty", "--glob", "*.txt", "--quiet"], "nothing found: 1 file, and no video or image"),
        (["texts", "-q", "What happens?"], "nothing found: 2 files, and no video or image"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"], ["-o", "out.jsonl"], ["--json-summary", "sum.json"]])
def test_nothing_found_is_one_line_and_a_status(folder, arguments, message, more):
    status, lines, said = batch(*arguments, *more)

    assert (status, lines, said) == (6, [], f"vllava: error: {message}\n")
    if "sum.json" in more:
        assert json.loads(Path("sum.json").read_text())["answered"] == 0


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_nothing_to_do_is_no_failure(folder, more):
    ring = ("sub", "--glob", "ring*", "-o", "out.jsonl")
    batch(*ring)

    assert batch(*ring, *more)[0] == 0
    assert batch("--from-file", "list", *more)[:2] == (0, [])
    parts = [batch("sub", "--glob", "ring*", "--shard", f"{number}/2", *more) for number in (1, 2)]
    assert [status for status, _, _ in parts] == [0, 0]
    assert sorted(len(lines) for _, lines, _ in parts) == [0, 1]
    assert [batch("texts", "--shard", f"{number}/2", *more)[0] for number in (1, 2)] == [0, 0]


def test_list_that_names_an_empty_folder_found_nothing(folder):
    assert batch("--from-file", "-", stdin=b"empty\nhidden\n")[0] == 6


def test_empty_folder_beside_others_is_told(folder):
    status, lines, said = batch("empty", "sub", "sub", "hidden", "--dry-run")

    assert (status, len(lines)) == (0, 2)
    assert "note: nothing found in 'empty', 'hidden': no files, hidden ones apart\n" in said


@pytest.fixture
def locked(monkeypatch):
    """Work as nobody, as root may read everything, in a folder with a clip, a locked folder and a locked file."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "all" / "locked" / "deep").mkdir(parents=True)
        shutil.copy(EXAMPLES / "ring-moves-up.mp4", root / "all")
        (root / "all" / "no-suffix").write_bytes(b"secret")
        (root / "all" / "link").symlink_to("locked/deep")
        root.chmod(0o755)
        (root / "all" / "no-suffix").chmod(0)
        (root / "all" / "locked").chmod(0)
        monkeypatch.setenv("XDG_CONFIG_HOME", name)
        os.chdir(root)
        is_root = os.getuid() == 0
        if is_root:
            os.setresuid(NOBODY, NOBODY, 0)
        try:
            yield root
        finally:
            os.chdir(before)
            if is_root:
                os.setresuid(0, 0, 0)
            (root / "all" / "locked").chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="users cannot be changed for a while")
def test_folders_and_files_that_may_not_be_read_are_failed_items(locked):
    status, lines, said = batch("all", "--glob", "ring*", "--glob", "[nl]*")
    listed = batch("all", "--dry-run")

    errors = {line["id"]: line["error"]["message"] for line in lines if "error" in line}
    assert errors == {
        "all/link": "cannot open 'all/link': Permission denied",
        "all/locked": "cannot search the folder 'all/locked': Permission denied",
        "all/no-suffix": "cannot open 'all/no-suffix': Permission denied",
    }
    assert (status, [line["answer"] for line in lines if "answer" in line]) == (4, ["It is green."])
    assert "note: failed: cannot search the folder 'all/locked': Permission denied\n" in said
    assert (listed[0], {line["id"]: line["error"]["message"] for line in listed[1] if "error" in line}) == (4, errors)


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="users cannot be changed for a while")
@pytest.mark.parametrize("name", ["all/locked", "all/locked/", "all/locked/deep"])
def test_named_folder_that_may_not_be_read_is_a_failed_item(locked, name):
    status, (line,), _ = batch(name)

    assert (status, line["id"]) == (4, name)
    assert line["error"]["message"].endswith("Permission denied")


def test_link_to_a_disk_that_is_not_there_is_a_failed_item(folder):
    (folder / "texts" / "disk").symlink_to("/nowhere/disk")

    status, (line,), _ = batch("texts")

    assert (status, line["error"]["message"].startswith("no such file: 'texts/disk'")) == (4, True)


def test_clips_under_other_names_are_not_asked_again(folder, monkeypatch):
    (folder / "link").symlink_to("sub")
    (folder / "sub" / "one.mp4").symlink_to("ring-moves-up.mp4")
    run = ("-o", folder / "out.jsonl")
    assert "1 repeated item is asked once" in batch("sub", *run)[2]

    for name in ("sub", "./sub", folder / "sub", "link", "sub/../sub/", "sub/one.mp4", "link/ring-moves-up.mp4"):
        status, _, said = batch(name, *run)
        assert (status, "note: 0 answered, " in said) == (0, True)
        assert batch(name, *run, "--dry-run")[1] == []
    monkeypatch.chdir("sub")
    assert "note: 0 answered, 2 there before" in batch(".", *run)[2]

    lines, sub = lines_of(folder / "out.jsonl"), folder.resolve() / "sub"
    assert [line["id"] for line in lines] == ["sub/circle-moves-right.mp4", "sub/one.mp4"]
    assert [line["resolved"] for line in lines] == [f"{sub}/circle-moves-right.mp4", f"{sub}/ring-moves-up.mp4"]


def test_file_in_two_spellings_is_asked_once_in_a_run(folder):
    ring = folder / "sub" / "ring-moves-up.mp4"

    _, lines, said = batch("sub/ring-moves-up.mp4", "./sub/ring-moves-up.mp4", ring, "https://127.0.0.1:1/a.mp4")

    assert [(line["id"], line["resolved"]) for line in lines] == [
        ("sub/ring-moves-up.mp4", str(ring.resolve())),
        ("https://127.0.0.1:1/a.mp4", None),
    ]
    assert "2 repeated items are asked once" in said


def test_two_ids_of_one_file_stay_two_items_under_any_name(folder):
    ring = "sub/ring-moves-up.mp4"
    for path in (ring, f"./{ring}", ring):
        named = [{"id": each, "path": path, "question": QUESTION} for each in (1, "two")]
        Path("questions").write_text("\n".join(map(json.dumps, [*named, named[0] | {"path": f"sub/../{ring}"}])))
        batch("--questions", "questions", "-o", "out.jsonl", questions=())

    assert [line["id"] for line in lines_of("out.jsonl")] == [1, "two"]
    batch(ring, "-o", "out.jsonl")  # nobody has asked about it without an id
    assert [line["id"] for line in lines_of("out.jsonl")] == [1, "two", ring]


@pytest.mark.parametrize("change", ["content", "time", "question", "setting", "copy"])
def test_other_file_question_or_setting_is_asked_again_under_another_name(folder, change):
    ring = folder / "sub" / "ring-moves-up.mp4"
    batch("sub/ring-moves-up.mp4", "-o", "out.jsonl")
    if change == "content":
        shutil.copy(EXAMPLES / "triangle-disappears.mp4", ring)
    elif change == "time":
        os.utime(ring, ns=(1, 1))
    elif change == "copy":
        shutil.copy2(ring, folder / "ring-moves-up.mp4")
    name = folder / "ring-moves-up.mp4" if change == "copy" else ring
    more = {"question": ["-q", "What happens?"], "setting": ["--max-new-tokens", 3]}.get(change, [])

    batch(name, "-o", "out.jsonl", *more)

    assert [line["id"] for line in lines_of("out.jsonl")] == ["sub/ring-moves-up.mp4", str(name)]


def test_lines_without_resolved_paths_are_known_by_their_ids(folder):
    run = ("--glob", "ring*", "-o", "out.jsonl")
    batch("sub", *run)
    (line,) = lines_of("out.jsonl")
    del line["resolved"]
    Path("out.jsonl").write_text(json.dumps(line) + "\n")

    assert "0 answered, 1 there before" in batch("sub", *run)[2]
    assert "1 answered; " in batch("./sub", *run)[2]
    assert "0 answered, 1 there before" in batch(folder / "sub", *run)[2]


def test_failed_items_are_known_and_redone_under_another_name(folder):
    late = folder / "sub" / "late.mp4"
    late.write_bytes(b"half" * 100)
    stamp = late.stat()
    assert batch("sub/late.mp4", "-o", "out.jsonl")[0] == 4
    assert "0 answered, 1 there before, 1 of them failed" in batch(late, "-o", "out.jsonl")[2]
    late.write_bytes((EXAMPLES / "ring-moves-up.mp4").read_bytes()[:400])
    os.utime(late, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    assert batch("./sub/late.mp4", "-o", "out.jsonl", "--redo-failed")[0] == 4
    assert [line["id"] for line in lines_of("out.jsonl")] == ["./sub/late.mp4"]
    assert "0 answered, 1 there before, 1 of them failed" in batch("sub/late.mp4", "-o", "out.jsonl")[2]


def test_shards_are_chosen_by_names_as_they_are_given(folder):
    shards = [batch("sub", "--shard", f"{number}/2", "--dry-run")[1] for number in (1, 2)]

    assert [[line["path"] for line in lines] for lines in shards] == [
        [],
        ["sub/circle-moves-right.mp4", "sub/ring-moves-up.mp4"],
    ]
