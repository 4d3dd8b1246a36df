"""What every test may count on: no settings from outside, and a way to read media."""

import os
import signal

import hypothesis
import pytest
from make_checkpoint import make_checkpoint

from videollava_cli.engine.startup import load
from videollava_cli.preprocessing import PixelSettings
from videollava_cli.reader import Reader
from videollava_cli.sampling import Window
from videollava_cli.settings import Settings

hypothesis.settings.register_profile("suite", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("suite")

SIDE = 48


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c():
    """Let processes that the tests start end by Ctrl-C, even where a shell runs the tests behind and ignores it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _cache_home(tmp_path_factory):
    """Keep quantized weights of the tests out of the cache of whoever runs them, and of one run out of the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache-home"))
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path_factory):
    """Keep settings and conversations of whoever runs the tests out of them, and the tests off the network."""
    for name in os.environ:
        if name.startswith("VLLAVA_") or name.lower().endswith("_proxy") or name in ("HF_HUB_OFFLINE", "NO_COLOR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config-home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state-home"))


@pytest.fixture
def pixels():
    """Image processor settings with a small side and CLIP's mean and std."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return PixelSettings(resize_side=SIDE, crop_side=SIDE, scale=1 / 255, mean=mean, std=std)


@pytest.fixture
def reader():
    """Make a reader whose fetched files go away with the test."""
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
    folder = tmp_path_factory.mktemp("small")
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def small(small_checkpoint):
    """Load the random weights on the CPU."""
    return load(str(small_checkpoint), device="cpu")


@pytest.fixture(scope="session")
def mini(tmp_path_factory):
    """Load random weights that see frames of 28 px: 40 tokens a clip, 4 an image."""
    folder = tmp_path_factory.mktemp("mini")
    make_checkpoint(folder, geometry="mini")
    return load(str(folder), device="cpu")


@pytest.fixture(scope="session")
def tiny():
    """Load the bundled model on the CPU."""
    return load("tiny", device="cpu")
