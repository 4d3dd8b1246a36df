r"""The JSON lines: by what an item and its line are known to be the same, and their text; knows no files.

A file name that is no Unicode has its odd bytes as `\udcXX` in a line, as Python writes them: `json.loads` and
`os.fsencode` give the name back to the byte, and other readers of JSON show a replacement sign.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from videollava_cli.batch import Item
from videollava_cli.errors import VllavaError
from videollava_cli.settings import IDENTITY_KEYS, Settings

FIRST_BYTES = b'{"id": '  # of every line
SAME_KEYS = ("id", "question", "model", "settings", "file")


def identity(item: Item, settings: Settings) -> dict[str, Any]:
    """Return the keys that say what was asked, and on which an item and its line must agree.

    `file` has the size in bytes and the time of modification in microseconds since 1970; None for what is no file on
    this disk. `settings` has those that change answers, as far as they are set.
    """
    stamp = item.stamp
    return {
        "id": item.id,
        "question": item.question,
        "model": settings.model,
        "settings": _settings_that_count(settings),
        "file": stamp and {"bytes": stamp.num_bytes, "modified_us": stamp.modified_us},
    }


def digest(line: Mapping[str, Any]) -> bytes:
    """Return 16 bytes that are the same for lines, and identities, which agree on what was asked."""
    same = {key: _normal(line.get(key)) for key in SAME_KEYS}
    return hashlib.blake2b(json.dumps(same, sort_keys=True).encode(), digest_size=16).digest()


def error_record(error: VllavaError) -> dict[str, str]:
    """Return what stands in a failed item's line in place of its answer."""
    return {"type": type(error).__name__, "message": " ".join(str(error).split())}


def as_text(line: Mapping[str, Any]) -> str:
    r"""Return a line's text with its end, without lone surrogates but those that are written out as `\udcXX`."""
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def _settings_that_count(settings: Settings) -> dict[str, Any]:
    quantization = "4bit" if settings.load_4bit else "8bit" if settings.load_8bit else None
    values = {key: getattr(settings, key) for key in IDENTITY_KEYS}
    return {key: value for key, value in {"quantization": quantization, **values}.items() if value is not None}


def _normal(value: Any) -> Any:
    """Return a value such that numbers written in two ways, 1 and 1.0, are the same."""
    if isinstance(value, dict):
        return {key: _normal(inner) for key, inner in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
