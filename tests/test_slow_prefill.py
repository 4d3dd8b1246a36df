"""How far a prefill is, where it takes long: on stderr, in a terminal, gone before the answer."""

import subprocess
import sys
from pathlib import Path

import pytest
from terminals import CTRL_C, ENTER, Terminal

from videollava_cli.engine.model_access import prefill_watched

SLOW = Path(__file__).with_name("slow_model.py")
EXAMPLES = SLOW.parents[1] / "examples"
CLIP, IMAGE = EXAMPLES / "circle-moves-right.mp4", EXAMPLES / "triangle.jpg"
SHOWN = r"Reading the clip into the model: (50|67|75)%"
HIDDEN_CURSOR, SHOWN_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.mark.parametrize(("media", "expected"), [([CLIP], "clip"), ([IMAGE], "image"), ([], "prompt")])
def test_each_layer_of_a_prefill_is_reported_and_no_decode_step_after_it(tiny, media, expected):
    reported = []
    tiny.clear_cache()
    chunks = tiny.ask(media, "What color is it?")

    with prefill_watched(tiny.model, lambda *what: reported.append(what)):
        next(chunks)
    num_reports = len(reported)
    list(chunks)

    shares = [share for _, share in reported if share]
    assert {name for name, _ in reported} == {expected}
    assert shares == [number / len(shares) for number in range(1, len(shares) + 1)]
    assert len(reported) == num_reports


def test_long_prefill_is_shown_in_a_terminal_and_gone_before_the_answer():
    with Terminal(SLOW, "prompt", "ask", "-m", "tiny", CLIP, "What color is it?") as terminal:
        terminal.expect(SHOWN)
        terminal.expect("It is red.")
        assert terminal.end() == 0

    _, _, behind = terminal.raw.rpartition("Reading the clip")
    assert "\x1b[2K" in behind.partition("It is red.")[0]  # the line is erased
    assert terminal.raw.count(HIDDEN_CURSOR) == terminal.raw.count(SHOWN_CURSOR)


def test_interrupt_in_a_long_prefill_gives_the_cursor_back():
    with Terminal(SLOW, "prompt", "ask", "-m", "tiny", CLIP, "What color is it?") as terminal:
        terminal.expect(SHOWN)
        terminal.type(CTRL_C)
        assert terminal.end() == 130

    assert terminal.raw.count(HIDDEN_CURSOR) == terminal.raw.count(SHOWN_CURSOR)


def test_chat_shows_a_long_prefill_too():
    with Terminal(SLOW, "prompt", "chat", "-m", "tiny", "--no-save", CLIP) as terminal:
        terminal.expect(r"%] >")
        terminal.type("What color is it?" + ENTER)
        terminal.expect(SHOWN)
        terminal.expect("It is red.")


def test_short_prefill_and_one_that_nobody_watches_are_not_shown():
    with Terminal("-m", "videollava_cli", "ask", "-m", "tiny", CLIP, "What color is it?") as terminal:
        assert terminal.end() == 0
    command = [sys.executable, SLOW, "prompt", "ask", "-m", "tiny", CLIP, "What color is it?"]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "Reading" not in terminal.raw
    assert (piped.stdout, piped.stderr) == ("It is red.\n", "")


def test_quiet_hides_it():
    with Terminal(SLOW, "prompt", "ask", "-m", "tiny", "--quiet", CLIP, "What color is it?") as terminal:
        assert terminal.end() == 0

    assert "Reading" not in terminal.raw
