"""Typed and piped lines mean what they look like: questions, slash commands, files dragged into the terminal."""

import io

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from videollava_cli.chat.commands import COMMANDS, is_open, parse, to_path
from videollava_cli.chat.input import SlashCompleter
from videollava_cli.chat.repl import Answers, read_piped
from videollava_cli.console import Console
from videollava_cli.engine import Chunk
from videollava_cli.errors import UsageError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with clips of awkward names."""
    for name in ("clip.mp4", "my clip.mp4", "it's.mp4", 'a "b".mp4', "größe.mp4", "50%20.mp4"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("line", ["", "  ", "\t", "\r"])
def test_blank_line_means_nothing(line):
    assert parse(line) is None


@pytest.mark.parametrize(
    "line", ["What is it?", "a/b or c?", "/home/me/clip.mp4 what is it?", "C:/clip", "--help", "-"]
)
def test_line_that_is_nothing_else_is_a_question(line):
    assert parse(line) == ("question", line)


@pytest.mark.parametrize(
    ("line", "command", "argument"),
    [
        ("/media", "/media", ""),
        ("  /video  my clip.mp4 ", "/video", "my clip.mp4"),
        ("/set", "/set", ""),
        ("/set at 0, 1, 2", "/set", "at 0, 1, 2"),
        ("/system Say  little.", "/system", "Say  little."),
    ],
)
def test_slash_command_takes_what_stands_after_it(line, command, argument):
    assert parse(line) == (command, argument)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/vidoe clip.mp4", "no command '/vidoe'; did you mean '/video'? /help lists them"),
        ("/zzz", "no command '/zzz': /help lists them"),
        ("/", "no command '/': /help lists them"),
        ("/Help", "no command '/Help'; did you mean '/help'? /help lists them"),
        ("/video", "/video needs something after it: /video PATH"),
        ("/undo it", "/undo takes nothing after it, and there is 'it'"),
    ],
)
def test_command_that_is_none_or_is_used_wrong_is_refused(line, message):
    with pytest.raises(UsageError) as refusal:
        parse(line)

    assert str(refusal.value) == message


def test_every_command_stands_for_itself():
    for command in COMMANDS.values():
        argument = "x" if command.argument else ""

        assert parse(f"{command.name} {argument}") == (command.name, argument)


def test_help_of_every_command_is_one_line():
    assert all(command.help[0].islower() and "\n" not in command.help for command in COMMANDS.values())


@pytest.mark.parametrize(
    "typed",
    ["my clip.mp4", "'my clip.mp4'", '"my clip.mp4"', "my\\ clip.mp4", "FILE/my%20clip.mp4", "'FOLDER/my clip.mp4' "],
)
def test_path_that_is_dragged_into_the_terminal_shows_the_file(folder, typed):
    line = typed.replace("FILE", f"file://{folder}").replace("FOLDER", str(folder))

    what, path = parse(line)

    assert what == "path"
    assert (folder / path).samefile(folder / "my clip.mp4")


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("it's.mp4", "it's.mp4"),
        ("'it'\\''s.mp4'", "it's.mp4"),
        ("it\\'s.mp4", "it's.mp4"),
        ('a "b".mp4', 'a "b".mp4'),
        ("gr\\öße.mp4", "größe.mp4"),
        ("50%20.mp4", "50%20.mp4"),
        ("~/clip.mp4", "~/clip.mp4"),
        ("https://example.org/a%20b.mp4?x=1", "https://example.org/a%20b.mp4?x=1"),
        ("no where.mp4", "no where.mp4"),
        ("file://elsewhere/clip.mp4", "file://elsewhere/clip.mp4"),
        ("a\0b", "a\0b"),
    ],
)
def test_path_after_a_command_is_freed_of_quotes_only_where_no_such_file_is_there(folder, typed, path):
    assert to_path(typed) == path


def test_slash_command_counts_more_than_a_file_of_its_name(folder):
    assert parse("/media") == ("/media", "")


def test_three_quotes_make_anything_a_question():
    assert parse('"""/exit"""') == ("question", "/exit")
    assert parse('"""\nTwo\nlines?\n"""') == ("question", "Two\nlines?")


@pytest.mark.parametrize(("text", "expected"), [('"""', True), ('"""a\nb', True), ('"""a"""', False), ('a """', False)])
def test_question_in_three_quotes_is_open_until_they_come_again(text, expected):
    assert is_open(text) is expected


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("/s", ["/set", "/system", "/save", "/stats"]),
        ("What /s", []),
        ("/set s", ["seed", "system", "start"]),
        ("/set seed ", []),
        ("/undo ", []),
        ("/video my", ["my clip.mp4"]),
        ("/save  it", ["it's.mp4"]),
    ],
)
def test_tab_completes_commands_settings_and_paths(folder, typed, completed):
    found = SlashCompleter().get_completions(Document(typed), CompleteEvent())

    assert [typed[typed.rfind(" ") + 1 : len(typed) + each.start_position] + each.text for each in found] == completed


def read_all(content):
    stream, found = io.BytesIO(content), []
    while True:
        try:
            found.append(read_piped(stream))
        except EOFError:
            return found


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\r\n\r\nb\r\n", ["a", "", "b"]),
        (b'"""a\nb"""\nc\n', ['"""a\nb"""', "c"]),
        (b'"""a\nb', ['"""a\nb\n"""']),
        (b"/image \xff.png\n", ["/image \udcff.png"]),
    ],
)
def test_piped_lines_are_read_whatever_ends_them(content, lines):
    assert read_all(content) == lines


@pytest.mark.parametrize(
    ("pieces", "line"),
    [
        (["A red", " circle."], "A red circle."),
        (["\n A", " \n", "\n b", "\r\n"], "A b"),
        (["A\u2028b\x0bc"], "A b c"),
        (["A", "  b", " "], "A  b"),
        (["\n", " "], ""),
    ],
)
def test_answer_of_several_lines_becomes_one(pieces, line, capsys):
    answers = Answers(Console(), "line")
    for _ in range(2):
        for piece in pieces:
            answers.add(Chunk(piece))
        answers.end(None, "What?")

    assert capsys.readouterr().out == f"{line}\n" * 2
