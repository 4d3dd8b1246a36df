"""What people and scripts have come to rely on: the help of every command, and the keys of every JSON output.

After an intended change:  python tests/test_snapshots.py
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest
from in_process import vllava

SNAPSHOTS = Path(__file__).parent / "snapshots"
EXAMPLES = Path(__file__).parents[1] / "examples"
CLIP, IMAGE = str(EXAMPLES / "circle-moves-right.mp4"), str(EXAMPLES / "triangle.jpg")
COMMANDS = (
    "",
    "ask",
    "batch",
    "cache",
    "cache clear",
    "cache verify",
    "chat",
    "doctor",
    "examples",
    "frames",
    "models",
    "models pull",
)
WIDTHS = {"help": 80, "help-40": 40}
OUTPUTS = {
    "ask": ["ask", "-m", "tiny", CLIP, IMAGE, "What happens?", "--json"],
    "batch": ["batch", "-m", "tiny", CLIP, "nowhere.mp4", "-q", "What happens?"],
    "batch-dry-run": ["batch", "-m", "tiny", CLIP, "nowhere.mp4", "-q", "What happens?", "--dry-run"],
    "cache": ["cache", "--json"],
    "cache-verify": ["cache", "verify", "--json"],
    "chat": ["chat", "-m", "tiny", CLIP, "--json", "--no-save"],
    "doctor": ["doctor", "-m", "tiny", "--json"],
    "models": ["models", "--json"],
    "frames": ["frames", "-m", "tiny", CLIP, "--json"],
}


def help_of(command: str, columns: int) -> str:
    """Return a command's help in a terminal of so many columns."""
    done = vllava(*command.split(), "-h", COLUMNS=str(columns), TERM="dumb", NO_COLOR="1")
    assert (done.status, done.stderr) == (0, "")
    return done.stdout


def keys_of(value: object) -> object:
    """Return the keys of a JSON value, those of a list by its first entry, without what differs between machines."""
    if isinstance(value, dict):
        return {key: None if key == "gpus" else keys_of(inner) for key, inner in value.items()}
    return [keys_of(value[0])] if isinstance(value, list) and value else None


def printed_keys(name: str, cache_home: str) -> str:
    """Return the keys of each JSON line that a command prints, in their order."""
    typed = b"What is it?\n/nothing\n" if name == "chat" else b""
    done = vllava(*OUTPUTS[name], stdin=typed, XDG_CACHE_HOME=cache_home)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    return "".join(json.dumps(keys_of(line), indent=1) + "\n" for line in lines)


def path_of(kind: str, name: str) -> Path:
    """Return the file of a snapshot."""
    return SNAPSHOTS / f"{kind}-{name.replace(' ', '-') or 'vllava'}.txt"


@pytest.mark.parametrize(("kind", "columns"), WIDTHS.items())
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_it_was(command: str, kind: str, columns: int) -> None:
    assert help_of(command, columns) == path_of(kind, command).read_text(encoding="utf-8")


@pytest.mark.parametrize("columns", [*WIDTHS.values(), 30, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_its_width_names_no_types_and_cuts_neither_options_nor_examples(command: str, columns: int) -> None:
    shown = help_of(command, columns)
    text, _, examples = shown.partition("  Examples:")

    options = {word for line in help_of(command, 200).splitlines() for word in line.split() if word.startswith("--")}
    assert options <= set(shown.split())
    assert not re.search(r"<\w+|\bINTEGER|\bFLOAT|list\[|…", text)
    assert all(line in help_of(command, 200) for line in examples.splitlines() if line.startswith("    vllava"))
    assert columns < 80 or max(map(len, shown.splitlines())) < columns


@pytest.mark.parametrize("name", OUTPUTS)
def test_json_has_the_keys_that_it_had(name: str, tmp_path: Path) -> None:
    assert printed_keys(name, str(tmp_path)) == path_of("json", name).read_text(encoding="utf-8")


if __name__ == "__main__":
    os.environ["XDG_CONFIG_HOME"] = "/nonexistent"
    for each in COMMANDS:
        for kind, columns in WIDTHS.items():
            path_of(kind, each).write_text(help_of(each, columns), encoding="utf-8")
    for each in OUTPUTS:
        with tempfile.TemporaryDirectory() as home:
            path_of("json", each).write_text(printed_keys(each, home), encoding="utf-8")
    sys.stderr.write("written\n")
