"""Bombs, lies and endless files are refused before they cost time or memory, measured in a process of its own."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import hostile_files as hostile
import pytest

MAX_BYTES = 500 << 20
MAX_BYTES_OF_8K = 700 << 20
MAX_SECONDS = 5.0  # 0.5 on a machine that has nothing else to do
ADDRESS_SPACE = 8 << 30
CLAIMS = "claims more frames than it can hold: it is damaged or a trap"
MAKERS = {
    "bomb_index.mp4": hostile.bomb_index,
    "bomb_two_tracks.mp4": hostile.bomb_two_tracks,
    "bomb_trun.mp4": hostile.bomb_fragment,
    "bomb_edits.mp4": hostile.bomb_edits,
    "bomb_cmov.mov": hostile.bomb_compressed_index,
    "bomb_zlib.mov": hostile.bomb_compressed_zeros,
    "huge.avi": hostile.huge_header,
    "photographs.mkv": hostile.huge_photographs,
    "photographs.mov": hostile.huge_photographs,
    "vp8.webm": hostile.huge_vp8,
    "sequence.mp4": hostile.huge_sequence,
    "sequence.mkv": hostile.huge_sequence,
    **dict.fromkeys(hostile.ZERO_NAMES, hostile.zeros),
}
READING = """
import json, sys, time
import av, numpy, PIL.Image
from videollava_cli.errors import MediaError
from videollava_cli.preprocessing import PixelSettings
from videollava_cli.reader import Reader
from videollava_cli.settings import Settings

pixels = PixelSettings(48, 48, 1 / 255, (0.5,) * 3, (0.5,) * 3)
for line in sys.stdin:
    began = time.perf_counter()
    message = ""
    try:
        with Reader(Settings(), num_threads=2) as reader:
            reader.read(reader.find(line.strip()), pixels)
    except MediaError as error:
        message = str(error)
    seconds = time.perf_counter() - began
    peak = next(int(row.split()[1]) << 10 for row in open("/proc/self/status") if row.startswith("VmHWM"))
    print(json.dumps([message, seconds, peak]), flush=True)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Write all hostile files, and let one child read them all: its peak is that of the worst."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = [make(folder / name) for name, make in MAKERS.items()]
    told = read_in_a_child(paths)
    for path in paths:
        path.unlink()
    return dict(zip(MAKERS, told, strict=False))


def read_in_a_child(paths):
    """Return what reading each file said, its seconds, and the peak of the child's memory until then."""
    done = subprocess.run(
        [sys.executable, "-c", READING],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=Path(__file__).parents[1],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE)),
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", MAKERS)
def test_hostile_file_is_refused_in_no_time_and_little_memory(outcomes, name):
    message, seconds, peak = outcomes[name]

    assert name in message
    assert "\n" not in message
    assert peak < MAX_BYTES
    assert seconds < MAX_SECONDS


@pytest.mark.parametrize("name", [name for name in MAKERS if name.startswith("bomb") and "zlib" not in name])
def test_bomb_is_known_for_what_it_claims(outcomes, name):
    assert outcomes[name][0].endswith(CLAIMS)


def test_clip_of_8k_is_shrunk_frame_by_frame(tmp_path):
    [[message, _, peak]] = read_in_a_child([hostile.clip_of_8k(tmp_path / "clip.mov")])

    assert message == ""
    assert peak < MAX_BYTES_OF_8K
