"""The process that reads damaged files: one path a line on stdin, one JSON object a line on stdout."""

import faulthandler
import json
import os
import resource
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from internals import SIDE, read, status_bytes

from videollava_cli.errors import MediaError
from videollava_cli.media import NUM_FRAMES, MediaKind, Medium

DECODE_THREADS = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file."""

    kind: str  # clip, image or refused; else a failure, by what was raised
    message: str
    seconds: float
    grown_mb: float  # of 2^20 bytes, above what the process held before

    @property
    def is_failure(self) -> bool:
        return self.kind not in ("clip", "image", "refused")


def main() -> None:
    """Read the first path as a warm-up, bound the memory, then read what is named until stdin ends."""
    max_mb, limit_seconds = int(sys.argv[1]), float(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    faulthandler.enable()
    for number, line in enumerate(sys.stdin):
        if number:
            faulthandler.dump_traceback_later(limit_seconds)
        outcome = _read(line.rstrip("\n"))
        faulthandler.cancel_dump_traceback_later()
        if number == 0:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (max_mb << 20), resource.RLIM_INFINITY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dump
        print(json.dumps(asdict(outcome)), file=replies, flush=True)


def _read(path: str) -> Outcome:
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: see proc(5)
    before = status_bytes("VmRSS")
    began = time.perf_counter()
    try:
        kind, message = _checked(read(path, DECODE_THREADS))
    except MediaError as error:
        message = str(error)
        kind = "refused" if len(message.splitlines()) == 1 else "refusal of more than one line, or none"
    except BaseException as error:  # what this program looks for
        kind = type(error).__name__
        message = f"{error} {_where(error)}"
    seconds = time.perf_counter() - began
    return Outcome(kind, message, seconds, max(0, status_bytes("VmHWM") - before) / 2**20)


def _checked(medium: Medium) -> tuple[str, str]:
    num_frames, kind = (1, "image") if medium.kind is MediaKind.IMAGE else (NUM_FRAMES, "clip")
    pixels, stamps = medium.pixels, medium.stamps
    is_right = pixels.shape == (num_frames, SIDE, SIDE, 3) and str(pixels.dtype) == "uint8"
    return (kind, "") if is_right else (f"wrong {kind}", f"{pixels.shape} {pixels.dtype}, {len(stamps)} stamps")


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "videollava_cli" in frame.filename]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in (*ours[-1:], *frames[-1:])]
    return f"({', '.join(dict.fromkeys(places))})"


if __name__ == "__main__":
    main()
