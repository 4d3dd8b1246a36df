"""What is typed during an answer is not shown within it, and stays typed for who reads next."""

import os
import signal
from pathlib import Path

import pytest
from terminals import CTRL_D, ENTER, Terminal

SLOW_MODEL = Path(__file__).with_name("slow_model.py")
CLIP = SLOW_MODEL.parents[1] / "examples" / "circle-moves-right.mp4"
TINY = ("-m", "tiny", "--device", "cpu", CLIP)
PROMPT = r"%\] >"


def test_line_typed_during_an_answer_is_not_in_it_and_is_the_next_question():
    with Terminal(SLOW_MODEL, "prompt", "chat", "--no-save", *TINY) as terminal:
        terminal.expect(PROMPT)
        terminal.type("What color is it?" + ENTER)
        terminal.expect("Reading the clip")
        terminal.type("What shape is it?" + ENTER)
        answered = terminal.expect(rf"It is red\.[\s\S]*{PROMPT}")
        terminal.expect(rf"It is a circle\.[\s\S]*{PROMPT}")
        terminal.type(CTRL_D)

        assert "shape" not in answered
        assert terminal.end() == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_terminal_echoes_again_however_an_answer_ends(sent):
    with Terminal(SLOW_MODEL, "prompt", "ask", *TINY, "What color is it?") as terminal:
        terminal.expect("Reading the clip")
        assert not terminal.is_echoing
        os.kill(terminal.pid, sent)
        terminal.end()

        assert terminal.is_echoing


def test_terminal_echoes_again_after_an_answer_and_after_two_signals():
    with Terminal("-m", "videollava_cli", "ask", *TINY, "What color is it?") as terminal:
        terminal.expect(r"It is red\.")
        terminal.end()

        assert terminal.is_echoing
    with Terminal(SLOW_MODEL, "prompt", "ask", *TINY, "What color is it?") as terminal:
        terminal.expect("Reading the clip")
        for _ in range(2):
            os.kill(terminal.pid, signal.SIGTERM)
        terminal.end()

        assert terminal.is_echoing


def test_terminal_of_a_process_in_the_background_is_left_alone(tmp_path):
    program = tmp_path / "background.py"
    program.write_text(
        "import os, sys, time\n"
        "from videollava_cli.process import echo_off\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os.setpgid(0, 0)\n"
        "    with echo_off():\n"
        "        os.write(1, b'background\\n')\n"
        "        time.sleep(1)\n"
        "    os._exit(0)\n"
        "print(os.waitpid(child, 0)[1])\n"
    )
    with Terminal(program) as terminal:
        terminal.expect("background")
        assert terminal.is_echoing
        terminal.expect("0\n")
        assert terminal.end() == 0
