"""The documents say what the code says."""

import re
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
