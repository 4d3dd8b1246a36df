"""The documents say what the code says."""

import re
import subprocess
import sys
from pathlib import Path

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


def test_every_file_that_a_document_links_to_is_there():
    links = [(path, link) for path in DOCS.glob("*.md") for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text())]

    assert links
    assert [link for path, link in links if not (path.parent / link).exists()] == []


def test_python_examples_of_the_documents_run():
    [program] = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)

    done = subprocess.run([sys.executable, "-c", program], cwd=DOCS.parent, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[0::2] == ["It is brown.", "It is red."]
    assert done.stdout.splitlines()[1].startswith("(8, 56, 56, 3) [")
