"""Where a table was measured; knows nothing of what was."""

import os
import platform
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "bench"


def machine_line(runs: int) -> str:
    """Return the line that stands above a table."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; medians of {runs}"
