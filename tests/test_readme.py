"""The README keeps its word: its examples print what it says they print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def console_examples():
    """Return command and output of every console block."""
    blocks = re.findall(r"```console\n\$ (.+?)\n(.*?)```", README, flags=re.DOTALL)
    return [pytest.param(command, output, id=command[:40]) for command, output in blocks]


@pytest.mark.parametrize(("command", "output"), console_examples())
def test_console_example_prints_what_the_readme_shows(command, output):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, output)


def test_python_example_prints_true_sentences():
    [program] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    happens = ["A red circle moves from left to right.", "A green ring moves from bottom to top."]
    history = [("What shape is it?", "It is a circle."), ("What color is it?", "It is red.")]
    assert (done.stdout.splitlines(), done.stderr) == ([*happens, str(history), *happens], "")


def test_every_file_that_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_file_tree_names_the_files_of_the_package_and_no_others():
    package = ROOT / "videollava_cli"
    [tree] = re.findall(r"    videollava_cli/\n((?:      .*\n)+)", README)
    shown, folder = [], package
    for indent, name in re.findall(r"^( {6,8})(\S+) ", tree, re.MULTILINE):
        path = (folder if len(indent) == 8 else package) / name
        folder = path if name.endswith("/") else folder
        shown.append(path)

    assert [path for path in shown if not path.exists()] == []
    there = {path for path in package.iterdir() if not path.name.startswith("_") and path.name != "py.typed"}
    assert there <= set(shown)
