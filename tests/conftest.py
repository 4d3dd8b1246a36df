"""What every test may count on: no settings from outside, one torch thread a worker, and a way to read media.

Heavy libraries are imported in fixtures: pytest-xdist's own process loads this file too, and runs no test.
"""

import gc
import os
import shutil
import signal

import hypothesis
import pytest

from videollava_cli.sampling import Window
from videollava_cli.settings import Settings

hypothesis.settings.register_profile("suite", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("suite")

SIDE = 48
FROM_OUTSIDE = (
    *(
        "VLLAVA_",
        "HF_HUB_OFFLINE",
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "COLUMNS",
        "LINES",
        "NO_COLOR",
        "FORCE_COLOR",
        "TTY_",
    ),
    *("CLICOLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH", "_TYPER"),
)


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Keep settings, proxies and the terminal of whoever runs the tests out of them and of the processes they start.

    Typer and huggingface_hub read theirs when they are imported, torch its number of threads.
    """
    for name in list(os.environ):
        if name.startswith(FROM_OUTSIDE) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ["TERM"] = "xterm-256color"
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the processors already


def pytest_collection_finish():
    """Let the garbage collector pass over what the tests imported: torch and transformers made a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c():
    """Let processes that the tests start end by Ctrl-C, even where a shell runs the tests behind and ignores it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory):
    """Keep settings, conversations and quantized weights of the user and of the tests apart."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("CACHE", "CONFIG", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(tmp_path_factory.getbasetemp() / f"{kind.lower()}-home"))
        yield


@pytest.fixture
def pixels():
    """Image processor settings with a small side and CLIP's mean and std."""
    from videollava_cli.preprocessing import PixelSettings

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return PixelSettings(resize_side=SIDE, crop_side=SIDE, scale=1 / 255, mean=mean, std=std)


@pytest.fixture
def reader():
    """Make a reader whose fetched files go away with the test."""
    from videollava_cli.reader import Reader

    with Reader(Settings()) as reader:
        yield reader


@pytest.fixture
def read(reader, pixels):
    """Find and read a medium."""

    def read(source, start=None, end=None):
        return reader.read(reader.find(str(source)), pixels, sampling=Window(start, end))

    return read


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory):
    """Write random weights in the 7B's token geometry: 224 px, patch 14, 2,056 tokens a clip."""
    from make_checkpoint import make_checkpoint

    folder = tmp_path_factory.mktemp("small")
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def endless_checkpoint(small_checkpoint, tmp_path_factory):
    """Copy the random weights; their answers end when the context is full."""
    folder = shutil.copytree(small_checkpoint, tmp_path_factory.mktemp("endless") / "endless")
    (folder / "generation_config.json").write_text('{"eos_token_id": 1000000}')
    return folder


@pytest.fixture(scope="session")
def small(small_checkpoint):
    """Load the random weights on the CPU."""
    from videollava_cli.engine.startup import load

    return load(str(small_checkpoint), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def mini(tmp_path_factory):
    """Load random weights that see frames of 28 px: 40 tokens a clip, 4 an image."""
    from make_checkpoint import make_checkpoint

    from videollava_cli.engine.startup import load

    folder = tmp_path_factory.mktemp("mini")
    make_checkpoint(folder, geometry="mini")
    return load(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def tiny():
    """Load the bundled model on the CPU."""
    from videollava_cli.engine.startup import load

    return load("tiny", device="cpu")
