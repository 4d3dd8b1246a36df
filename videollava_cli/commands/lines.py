"""The parts of a JSON line that commands share."""

from dataclasses import asdict
from typing import Any

from videollava_cli.media import Clip, Medium


def json_medium(medium: Medium) -> dict[str, Any]:
    """Return a medium as it stands in a JSON line: its name, what it is, and the frames that were taken."""
    stamps = medium.stamps if isinstance(medium, Clip) else ()
    return {"path": medium.name, "kind": medium.kind.value, "frames": [asdict(stamp) for stamp in stamps]}
