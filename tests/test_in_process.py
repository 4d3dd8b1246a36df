"""A command in this process leaves it as it was, so that tests run in any order."""

import gc
import os
import signal
import sys
import warnings

import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from in_process import vllava

COMMANDS = {
    "a mistake": ["ask", "nowhere.mp4", "What happens?", "--quiet"],
    "chat": ["chat", "-m", "tiny", "--device", "cpu", "--no-save", "--quiet"],
    "batch": ["batch", "nowhere.mp4", "-m", "tiny", "--device", "cpu", "-q", "What happens?", "--quiet"],
}


def what_a_command_changes():
    """Return what belongs to the process and not to a command."""
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    streams = [sys.stdin, sys.stdout, sys.stderr, sys.argv]
    hub = are_progress_bars_disabled()
    return dict(os.environ), list(warnings.filters), gc.get_threshold(), handlers, streams, hub


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_command_leaves_its_process_as_it_was(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vllava(*arguments)  # libraries may import more the first time
    before = what_a_command_changes()

    vllava(*arguments, VLLAVA_SEED="7")

    assert what_a_command_changes() == before
    assert os.getcwd() == str(tmp_path)
