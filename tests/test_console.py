"""Answers go to stdout, everything else to stderr, and nothing can take over the terminal."""

import io
import os
import pty
import subprocess
import sys

import pytest

from videollava_cli.console import Console, bytes_in_words, printable

TERMINAL_SCRIPT = """
import sys
from videollava_cli.console import Console

console = Console(is_verbose=True)
{line}
"""


def on_a_terminal(line, environment=None):
    """Run a line with stdout and stderr on a pseudo-terminal; return what the terminal got."""
    ours, theirs = pty.openpty()
    script = TERMINAL_SCRIPT.format(line=line)
    subprocess.run(
        [sys.executable, "-c", script], stdout=theirs, stderr=theirs, check=True, env={**os.environ, **environment}
    )
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        return terminal.read1(100_000).decode().replace("\r\n", "\n")


def test_answers_go_to_stdout_as_they_are(capsys):
    Console().answer("Ein Käfer \x1b[31m 🐞")

    assert capsys.readouterr() == ("Ein Käfer \x1b[31m 🐞", "")


def test_answer_that_stdout_cannot_encode_is_written_with_escapes(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))

    Console().answer("Käfer 雨")

    assert raw.getvalue() == b"K\xe4fer \\u96e8"


def test_name_that_is_no_unicode_is_written_with_escapes(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))

    Console().answer(os.fsdecode(b"caf\xe9.mp4"))

    assert raw.getvalue() == b"caf\\udce9.mp4"


def test_notices_go_to_stderr_without_colour_when_it_is_no_terminal(capsys):
    Console().notice("frames repeated")

    assert capsys.readouterr() == ("", "vllava: note: frames repeated\n")


def test_quiet_console_keeps_notices_to_itself_and_still_tells_errors(capsys):
    console = Console(is_quiet=True)

    console.notice("frames repeated")
    console.error("no such file")

    assert capsys.readouterr() == ("", "vllava: error: no such file\n")


@pytest.mark.parametrize(("is_verbose", "said"), [(True, "vllava: 5 tokens\n"), (False, "")])
def test_details_are_for_the_verbose_console_only(capsys, is_verbose, said):
    Console(is_verbose=is_verbose).detail("5 tokens")

    assert capsys.readouterr() == ("", said)


def test_error_is_one_line_whatever_its_text(capsys):
    Console().error("first\n  second\r\nthird\x0bfourth\u2028fifth")

    assert capsys.readouterr().err == "vllava: error: first second third fourth fifth\n"


def test_status_says_nothing_when_stderr_is_no_terminal(capsys):
    with Console().status("Loading"):
        pass

    assert capsys.readouterr() == ("", "")


def test_status_lets_an_error_inside_it_through():
    with pytest.raises(OSError, match="disk"), Console().status("Loading"):
        raise OSError("disk")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\x08", "a\\rb\\x08"),
        ("\x85\x9b31m", "\\x85\\x9b31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("été 雨 🐞", "été 雨 🐞"),
        ("non\u00a0breaking", "non\u00a0breaking"),
        ("👩\u200d🚒 क\u200cष", "👩\u200d🚒 क\u200cष"),
        ("\udce9", "\\udce9"),
    ],
)
def test_printable_writes_out_what_would_steer_a_terminal(text, printed):
    assert printable(text) == printed


@pytest.mark.parametrize(
    ("num_bytes", "unit", "words"),
    [
        (999, None, "999 bytes"),
        (1000, None, "1.0 kB"),
        (2_340_000, None, "2.3 MB"),
        (14_740_000_000, None, "14.7 GB"),
        (2_340_000, "GB", "0.0 GB"),
        (14_740_000_000, "GiB", "13.7 GiB"),
        (22 << 20, "GiB", "22 MiB"),
    ],
)
def test_bytes_are_in_the_unit_that_suits_or_is_usual(num_bytes, unit, words):
    assert bytes_in_words(num_bytes, unit) == words


def test_answer_on_a_terminal_cannot_steer_it():
    shown = on_a_terminal('console.answer("red \\x1b[31m")', {})

    assert shown == "red \\x1b[31m"


def test_error_on_a_terminal_is_coloured():
    shown = on_a_terminal('console.error("no")', {"NO_COLOR": ""})

    assert shown == "\x1b[1;31mvllava: error: no\x1b[0m\n"


def test_no_color_is_honoured_on_a_terminal():
    shown = on_a_terminal('console.error("no")', {"NO_COLOR": "1"})

    assert shown == "vllava: error: no\n"


def test_status_on_a_terminal_is_shown_and_taken_away_again():
    shown = on_a_terminal('with console.status("Loading"): pass', {"TERM": "xterm"})

    assert "Loading" in shown
    assert shown.endswith("\x1b[2K")
