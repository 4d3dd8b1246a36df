"""Which libraries are there, and which of them really run; judges nothing."""

import importlib
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from videollava_cli.doctor.facts import Gpu, Software, Trial, Video
from videollava_cli.errors import first_line

DISTRIBUTION = "videollava-cli"
# Needed to read media and run a model; the others follow from `pip install`.
IMPORTED = ("torch", "transformers", "av", "numpy", "PIL")
SHOWN = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "huggingface_hub", "av", "pillow", "numpy")
OPTIONAL = ("bitsandbytes", "flash-attn", "ray")
# A name of any decoder for it that works without special hardware: FFmpeg's own `av1` does not.
DECODERS = {"h264": ("h264",), "hevc": ("hevc",), "vp9": ("vp9",), "av1": ("libdav1d", "libaom-av1")}
OLDEST_FLASH = (8, 0)  # compute capability: Ampere (flash-attn's README)
TRIAL_SECONDS = 180  # until a trial must have ended; importing torch from a slow disk takes its time


def look_at_software() -> Software:
    """Find out the versions of Python and the packages, and what is wrong with those that vllava needs."""
    versions = {name: _version(name) for name in (*SHOWN, *OPTIONAL)}
    problems = tuple(_missing() or (*_unfitting(), *_unimportable()))
    return Software(platform.python_version(), platform.platform(), versions, problems)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> list[str]:
    """Return what this package says it needs; nothing where it runs without having been installed."""
    try:
        named = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    return [text for text in named if "extra ==" not in text and "bitsandbytes" not in text]


def _missing() -> list[str]:
    names = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in _requirements()]
    return [f"{name} is not installed: pip install {name}" for name in names if _version(name) is None]


def _unfitting() -> Iterator[str]:
    """Yield what is too old or too new."""
    from packaging.requirements import Requirement  # transformers brings it

    for requirement in map(Requirement, _requirements()):
        version = _version(requirement.name)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version} does not suit vllava: pip install '{requirement}'"


def _unimportable() -> Iterator[str]:
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            yield f"{name} cannot be imported: {first_line(error)}; install it anew"


def try_four_bit(device: str, dtype: str) -> Trial:
    """Find out whether bitsandbytes runs 4-bit weights on a device, by doing so."""
    if util.find_spec("bitsandbytes") is None:
        return Trial(is_usable=False, reason="bitsandbytes is not installed: pip install bitsandbytes")
    return _attempt("four-bit", device, dtype)


def try_flash_attention(device: str, dtype: str, gpu: Gpu | None) -> Trial:
    """Find out whether Flash-Attention 2 runs on a device; only a GPU that is new enough is tried."""
    if gpu is None or gpu.capability is None:
        return Trial(is_usable=False, reason=f"it needs an NVIDIA GPU, and the device is {device}")
    if gpu.capability < OLDEST_FLASH:
        return Trial(is_usable=False, reason=f"it needs an Ampere GPU or newer, and this is {gpu.name}")
    if util.find_spec("flash_attn") is None:
        return Trial(is_usable=False, reason="flash-attn is not installed: pip install flash-attn")
    return _attempt("flash-attention", device, "bfloat16" if dtype == "bfloat16" else "float16")


def _attempt(kind: str, device: str, dtype: str) -> Trial:
    """Run a trial in a process of its own, which a crash of native code may take along."""
    script = Path(__file__).with_name("attempt.py")
    command = [sys.executable, "-P", str(script), kind, device, dtype]
    try:
        done = subprocess.run(  # noqa: S603 (our own script)
            command, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return Trial(is_usable=False, reason=f"it had not ended after {TRIAL_SECONDS} s")
    if done.returncode == 0:
        return Trial(is_usable=True)
    if done.returncode < 0:
        return Trial(is_usable=False, reason=f"it crashed with {signal.Signals(-done.returncode).name}")
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    return Trial(is_usable=False, reason=lines[-1] if lines else "it failed without a word")


def look_at_video() -> Video:
    """Find out PyAV's FFmpeg, and what it can decode."""
    import av

    decoders = {name: any(_decodes(codec) for codec in names) for name, names in DECODERS.items()}
    return Video(av.__version__, av.ffmpeg_version_info, decoders)


def _decodes(codec: str) -> bool:
    from av.codec import Codec

    try:
        Codec(codec, "r")
    except ValueError:  # PyAV's UnknownCodecError
        return False
    return True
