"""The documents say what the code says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import make_man
import pytest

from videollava_cli.settings import DEFAULTS, SETTINGS

DOCS = Path(__file__).resolve().parents[1] / "docs"


def shown(default: object) -> str:
    """Return a default as TOML writes it, in backquotes; nothing for one that is not set."""
    if default is None:
        return ""
    return f'`"{default}"`' if isinstance(default, str) else f"`{str(default).lower()}`"


def test_table_of_settings_has_every_key_with_its_default_and_scope():
    table = re.findall(
        r"^\| `(\w+)` \| [^|]+ \| ([^|]*?) ?\| (\w+) \|", (DOCS / "settings.md").read_text(), re.MULTILINE
    )

    assert table == [(key, shown(DEFAULTS[key]), setting.scope) for key, setting in SETTINGS.items() if setting.help]


def test_manual_page_is_that_of_the_commands():
    assert make_man.PAGE.read_text() == make_man.make_page()  # python scripts/make_man.py writes it


def test_manual_page_names_every_command_and_option():
    page = make_man.PAGE.read_text().replace("\\-", "-")

    for command in ("ask", "batch", "cache clear", "chat", "doctor", "examples", "frames", "models pull"):
        assert f".SH VLLAVA {command.upper()}\n.B vllava {command}\n" in page
    assert {f"--{key.replace('_', '-')}" for key, setting in SETTINGS.items() if setting.help} <= set(page.split())


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff checks the page, and it is not here")
def test_manual_page_is_correct_roff():
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", make_man.PAGE], capture_output=True, text=True, check=True)

    assert done.stderr == ""
    assert "vllava ask -m tiny examples/circle" in re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout).replace(
        "\u2010", "-"
    )


def test_every_file_that_a_document_links_to_is_there():
    links = [(path, link) for path in DOCS.glob("*.md") for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text())]

    assert links
    assert [link for path, link in links if not (path.parent / link).exists()] == []


def test_python_examples_of_the_documents_run():
    [program] = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)

    done = subprocess.run([sys.executable, "-c", program], cwd=DOCS.parent, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[0::2] == ["It is brown.", "It is red."]
    assert done.stdout.splitlines()[1].startswith("(8, 56, 56, 3) [")
