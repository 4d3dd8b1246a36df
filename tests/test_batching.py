"""Work lists, JSON lines and the file they are kept in: no model, no media."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import filelock
import pytest

from videollava_cli.batch.lines import digests, identity
from videollava_cli.batch.output import Results, read_held
from videollava_cli.batch.pipeline import Interrupts
from videollava_cli.batch.work import (
    Item,
    Shard,
    by_medium,
    find_items,
    read_list,
    read_questions,
    with_stamps,
    without_repetitions,
)
from videollava_cli.engine.request import json_text
from videollava_cli.errors import OutputError, UsageError
from videollava_cli.settings import Settings

QUESTION = "What happens?"
ITEM = Item("a.mp4", "a.mp4", QUESTION, stamp=(10, 20))
SETTINGS = Settings(model="tiny")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Make a folder with folders, hidden files and links in it, and work beside it."""
    for name in ("b.mp4", "a.png", "B.MP4", ".hidden.mp4", "sub/c.mp4", "sub/deep/d.webm", ".git/e.mp4"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tree"


def found(*paths, patterns=()):
    return [item.path for item in find_items(paths, [QUESTION], patterns)[0]]


def line_for(item=ITEM, settings=SETTINGS, **more):
    return identity(item, settings) | more


def test_folders_are_searched_to_their_bottom_in_the_order_of_names_without_hidden_files(tree):
    names = ["B.MP4", "a.png", "b.mp4", "sub/c.mp4", "sub/deep/d.webm"]

    assert found("tree") == [f"tree/{name}" for name in names]


def test_what_is_named_is_taken_as_it_is_and_what_a_folder_holds_is_not_named(tree):
    named = ["tree/.hidden.mp4", "nowhere.mp4", "https://example.org/a.mp4", "tree/sub/deep"]

    assert [(item.path, item.is_named) for item in find_items(named, [QUESTION])[0]] == [
        ("tree/.hidden.mp4", True),
        ("nowhere.mp4", True),
        ("https://example.org/a.mp4", True),
        ("tree/sub/deep/d.webm", False),
    ]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*.mp4"], ["b.mp4", "sub/c.mp4"]),
        (["*.mp4", "*.webm"], ["b.mp4", "sub/c.mp4", "sub/deep/d.webm"]),
        (["sub/*"], ["sub/c.mp4", "sub/deep/d.webm"]),
        (["nothing"], []),
    ],
)
def test_patterns_choose_among_the_files_of_folders(tree, patterns, names):
    assert found("tree", patterns=patterns) == [f"tree/{name}" for name in names]


def test_pattern_does_not_hold_for_what_is_named(tree):
    assert found("tree/a.png", patterns=["*.mp4"]) == ["tree/a.png"]


def test_links_are_followed_and_loops_end(tree):
    (tree / "sub" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "sub" / "self").symlink_to("self")
    (tree / "z-link.mp4").symlink_to(tree / "b.mp4")

    names = found("tree")

    assert len(names) == len(set(names)) == 7
    assert {"tree/z-link.mp4", "tree/sub/self"} < set(names)


def test_folder_named_twice_is_searched_once(tree):
    assert found("tree/sub", "tree/sub") == ["tree/sub/c.mp4", "tree/sub/deep/d.webm"]


@pytest.mark.parametrize(
    ("content", "is_null_separated", "paths"),
    [
        (b"a.mp4\nb c.mp4\n\n", False, ["a.mp4", "b c.mp4"]),
        (b"a.mp4\r\nb.mp4", False, ["a.mp4", "b.mp4"]),
        (b"two\nlines.mp4\0b.mp4\0", True, ["two\nlines.mp4", "b.mp4"]),
        (b"caf\xe9.mp4\n", False, ["caf\udce9.mp4"]),
        (b"", True, []),
    ],
)
def test_lists_are_separated_by_newlines_or_by_nul(tmp_path, content, is_null_separated, paths):
    (tmp_path / "list").write_bytes(content)

    assert read_list(str(tmp_path / "list"), is_null_separated=is_null_separated) == paths


def test_nul_separated_list_that_is_read_by_lines_is_told(tmp_path):
    (tmp_path / "list").write_bytes(b"a.mp4\0b.mp4\0")

    with pytest.raises(UsageError, match="add -0"):
        read_list(str(tmp_path / "list"), is_null_separated=False)


def test_questions_come_one_a_line(tmp_path):
    (tmp_path / "questions").write_text("\ufeffWhat happens?\r\n\n  Why?  \n", encoding="utf-8")

    assert read_questions(str(tmp_path / "questions")) == ["What happens?", "Why?"]


def test_questions_as_json_lines_name_their_medium_and_may_have_an_id(tmp_path):
    lines = ['{"path": "a.mp4", "question": "Why?", "id": 7}', '{"path": "caf\\udce9.mp4", "question": "Who?", "x": 1}']
    (tmp_path / "questions").write_text("\n".join(lines))

    assert read_questions(str(tmp_path / "questions")) == [
        Item(7, "a.mp4", "Why?"),
        Item("caf\udce9.mp4", "caf\udce9.mp4", "Who?"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there is no question in"),
        ('{"path": "a.mp4"}', "line 1 of .* has no question: write"),
        ('{"path": "a.mp4", "question": " "}', "line 1 of .* has no question: write"),
        ('{"question": "Why?", "path": 3}', "line 1 of .* has no path: write"),
        ('{"path": "a", "question": "b"}\n{"path": ', "line 2 of .* is no JSON object: "),
        ('{"path": "a", "question": "b"}\n7', "line 2 of .* is no JSON object: '7'"),
        (
            '{"path": "a", "question": "b", "id": [1]}',
            r"the id on line 1 of .* is \[1\]: give a text or a whole number",
        ),
    ],
)
def test_questions_that_make_no_sense_are_told_with_their_line(tmp_path, content, message):
    (tmp_path / "questions").write_text(content)

    with pytest.raises(UsageError, match=message):
        read_questions(str(tmp_path / "questions"))


def test_questions_that_are_no_text_or_not_there_are_told(tmp_path):
    (tmp_path / "questions").write_bytes(b"Why?\n\xff")

    with pytest.raises(UsageError, match="is not UTF-8 at byte 6: save it as UTF-8"):
        read_questions(str(tmp_path / "questions"))
    with pytest.raises(UsageError, match=r"cannot read '/nowhere': No such file"):
        read_questions("/nowhere")


def test_every_question_is_asked_about_every_medium_and_neighbours_share_it():
    items, _ = find_items(["a.mp4", "b.mp4"], ["Why?", "Who?"])

    assert [(item.id, item.question) for item in items] == [
        *(("a.mp4", "Why?"), ("a.mp4", "Who?")),
        *(("b.mp4", "Why?"), ("b.mp4", "Who?")),
    ]
    assert list(by_medium(items)) == [tuple(items[:2]), tuple(items[2:])]


def test_repeated_items_are_asked_once_and_two_media_of_one_id_are_refused():
    other = replace(ITEM, path="b.mp4")

    assert without_repetitions([ITEM, ITEM, replace(ITEM, question="Why?")])[1] == 1
    with pytest.raises(UsageError, match=r"the id 'a.mp4' is given to two media"):
        without_repetitions([ITEM, other])


def test_items_get_the_size_and_time_of_their_files(tree):
    os.utime(tree / "b.mp4", ns=(0, 1_234_567_891))

    items = with_stamps([replace(ITEM, path=path) for path in ("tree/b.mp4", "tree", "hf://a/b/c")])

    assert [item.stamp for item in items] == [(0, 1_234_567), None, None]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shards_hold_every_medium_exactly_once_and_about_as_many_each(count):
    paths = [f"clips/{number}.mp4" for number in range(1000)] + ["caf\udce9.mp4", "\ud800"]

    sizes = [sum(Shard(number, count).holds(path) for path in paths) for number in range(1, count + 1)]

    assert sum(sizes) == len(paths)
    assert min(sizes) > 0.7 * len(paths) / count


def test_shard_of_a_medium_does_not_depend_on_the_others():
    assert [path for path in "abcdefgh" if Shard(2, 3).holds(path)] == ["g", "h"]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2", ""])
def test_shard_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="give I/N with I from 1 to N"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("item", "settings"),
    [
        (replace(ITEM, id="b.mp4"), SETTINGS),
        (replace(ITEM, question="Why?"), SETTINGS),
        (replace(ITEM, stamp=(11, 20)), SETTINGS),
        (replace(ITEM, stamp=(10, 21)), SETTINGS),
        (replace(ITEM, stamp=None), SETTINGS),
        *(
            (ITEM, replace(SETTINGS, **change))
            for change in (
                {"model": "7b"},
                {"revision": "main"},
                {"load_4bit": True},
                {"load_8bit": True},
                {"dtype": "float32"},
                {"max_new_tokens": 511},
                {"temperature": 0.5},
                {"temperature": 0.5, "top_p": 0.9},
                {"temperature": 0.5, "top_k": 9},
                {"repetition_penalty": 1.1},
                {"seed": 1},
                {"system": "Be brief."},
                {"prompt_style": "joined"},
                {"start": 1.0},
                {"end": 1.0},
                {"at": "0,1,2,3,4,5,6,7"},
                {"fit": "pad"},
            )
        ),
    ],
)
def test_line_counts_for_what_was_asked_and_for_nothing_else(item, settings):
    assert digests(line_for(item, settings), item.path) != digests(line_for(), ITEM.path)


@pytest.mark.parametrize("change", [{"device": "cpu"}, {"offline": True}, {"decode_threads": 2}, {"temperature": 0}])
def test_what_changes_no_answer_makes_no_other_line(change):
    line = json.loads(json_text(line_for(ITEM, replace(SETTINGS, **change), answer="Yes.")))

    assert digests(line, ITEM.path) == digests(line_for(), ITEM.path)


def test_name_that_is_no_unicode_comes_back_from_its_line_to_the_byte():
    text = json_text(line_for(replace(ITEM, id="caf\udce9 é\n.mp4")))

    assert text.isprintable() is False
    assert text.count("\n") == 1
    assert "\\udce9 é\\n.mp4" in text
    assert os.fsencode(json.loads(text.encode())["id"]) == b"caf" + b"\xe9 \xc3\xa9\n.mp4"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl"


def write(path, *lines, **options):
    with Results(path, **options) as results:
        for line in lines:
            results.write(line)


def ids(path):
    return [json.loads(line)["id"] for line in path.read_bytes().splitlines()]


def test_lines_are_appended_and_known_again(path):
    write(path, line_for(answer="Yes."))
    write(path, line_for(replace(ITEM, id=2), error={}))

    with Results(path) as results:
        assert results.held.answered == {*digests(line_for(), ITEM.path)}
        assert results.held.failed == {*digests(line_for(replace(ITEM, id=2)), ITEM.path)}
    assert ids(path) == ["a.mp4", 2]


def test_line_is_there_as_soon_as_it_is_written(path):
    with Results(path) as results:
        results.write(line_for())
        assert ids(path) == ["a.mp4"]


@pytest.mark.parametrize("half", ['{"', '{"id": 1', '{"id": "a.m', '{"id": "a", "me', '{"id": 1, "media": [{"path'])
def test_half_written_first_line_is_cut_off(path, half):
    path.write_text(half)

    write(path, line_for())

    assert ids(path) == ["a.mp4"]


@pytest.mark.parametrize("num_bytes", [1, 5, 9, 60, -1])
def test_half_written_last_line_is_cut_off(path, num_bytes):
    write(path, line_for())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:num_bytes].rstrip(b"}"))

    write(path, line_for(replace(ITEM, id="b.mp4")))

    assert ids(path) == ["a.mp4", "b.mp4"]


def test_zeros_that_a_lost_power_left_are_cut_off(path):
    write(path, line_for())
    path.write_bytes(path.read_bytes() + bytes(100))

    write(path, line_for(replace(ITEM, id="b.mp4")))

    assert ids(path) == ["a.mp4", "b.mp4"]


def test_last_line_that_is_whole_but_for_its_end_is_kept(path):
    path.write_text(json_text(line_for()).rstrip("\n"))

    write(path, line_for(replace(ITEM, id="b.mp4")))

    assert ids(path) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    "content",
    [
        *(b"Dear diary,\n", b"Dear diary", b"[1]\n", b'{"a": 1}\n', b"\x00\x01\x02\n", b"\xff", bytes(100)),
        *(b'{"id": 1}', b'{"id": 1, "name": "Ada', b'{"id": [1', b'{"id": "a", "media": []}'),
        *(b'{"id": 1, "media": 1}\n', b'{"id": 1, "path": "a.mp4", "question": "Why?"}\n'),
    ],
)
def test_file_that_is_not_ours_is_refused_and_left_as_it_is(path, content):
    path.write_bytes(content)

    with pytest.raises(UsageError, match="holds what is no line of a batch"):
        Results(path)
    assert path.read_bytes() == content


def test_overwriting_empties_a_file_of_ours_and_no_other(path):
    write(path, line_for(replace(ITEM, id="b.mp4")))
    write(path, line_for(), is_fresh=True)
    assert ids(path) == ["a.mp4"]

    path.write_bytes(path.read_bytes() + b"Dear diary,\n")
    with pytest.raises(UsageError, match="holds what is no line of a batch, 'Dear diary"):
        Results(path, is_fresh=True)
    assert path.read_bytes().endswith(b"Dear diary,\n")


def test_lines_of_failed_items_are_dropped_to_be_asked_again(path):
    write(path, line_for(error={}), line_for(replace(ITEM, id=2), answer="Yes."))

    with Results(path, redo_failed=True) as results:
        assert (len(results.held.answered), len(results.held.failed)) == (1, 0)
        with pytest.raises(UsageError, match="another process is writing"):
            Results(path)
        results.write(line_for(answer="No."))

    assert ids(path) == [2, "a.mp4"]
    assert os.listdir(path.parent) == [path.name]


def test_two_processes_on_one_file_refuse(path):
    code = f"""
from pathlib import Path
from videollava_cli.batch.output import Results
Results(Path({str(path)!r}))
"""
    with Results(path):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)

    assert "UsageError: another process is writing" in done.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_file_beside_stands_for_a_lock_where_there_is_none(path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    for _ in range(2):
        with Results(path, redo_failed=True) as results:
            with pytest.raises(UsageError, match=r"if none is, remove '.*out\.jsonl\.lock'"):
                Results(path)
            results.write(line_for(error={}))

    assert ids(path) == ["a.mp4"]
    assert os.listdir(path.parent) == [path.name]


def test_what_a_full_disk_does_not_take_is_cut_off_and_the_rest_is_kept(path):
    limit = len(json_text(line_for())) * 5 // 2
    code = f"""
import resource
from pathlib import Path
from videollava_cli.batch.output import Results
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
with Results(Path({str(path)!r})) as results:
    for _ in range(3):
        results.write({line_for()!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)

    assert "OutputError: cannot write" in done.stderr
    assert "File too large; what it holds is kept: make room" in done.stderr
    assert ids(path) == ["a.mp4", "a.mp4"]


def test_pipe_is_written_and_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    write(tmp_path / "pipe", line_for())

    assert json.loads(os.read(reader, 4096))["id"] == "a.mp4"
    os.close(reader)


def test_file_that_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(OutputError, match=r"cannot open '.*nowhere/out\.jsonl' for writing: No such file"):
        Results(tmp_path / "nowhere" / "out.jsonl")


def test_looking_at_a_file_changes_nothing(path):
    write(path, line_for())
    path.write_bytes(path.read_bytes() + b'{"id": ')
    before = path.read_bytes()

    assert len(read_held(path).answered) == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize(("num_presses", "happened"), [(1, ["notified", "work done"]), (2, ["notified"])])
def test_ctrl_c_waits_for_work_in_hand_and_a_second_one_does_not(num_presses, happened):
    events = []

    def work():
        with Interrupts(lambda: events.append("notified")) as interrupts:
            with interrupts.held():
                with interrupts.held():
                    for _ in range(num_presses):
                        signal.raise_signal(signal.SIGINT)
                events.append("work done")
            events.append("more work done")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert events == happened


def test_ctrl_c_ends_at_once_where_no_work_is_in_hand():
    with Interrupts(lambda: None) as interrupts:
        with interrupts.held():
            pass
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
