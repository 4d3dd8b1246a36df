"""Checks of one thing each, without the network: their values for --json, and findings for the report."""

import importlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, Literal

from videollava_cli.console import bytes_in_words
from videollava_cli.engine.checkpoint import ModelSize, compute_dtype
from videollava_cli.engine.quantized_cache import cache_folder, entries
from videollava_cli.errors import UsageError, VllavaError, first_line
from videollava_cli.machine import free_memory, num_processors, total_memory
from videollava_cli.process import signals_deferred
from videollava_cli.settings import Settings

PYTHON, MACHINE, OPTIONS, FILES = "Python and its packages", "Machine", "What may be used", "Checkpoints"
# Needed to read media and run a model; the others follow from `pip install`.
IMPORTED = ("torch", "transformers", "av", "numpy", "PIL")
SHOWN = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "huggingface_hub", "av", "pillow", "numpy")
OPTIONAL = ("bitsandbytes", "flash-attn", "ray", "pillow-heif")
DRIVER_QUERY = ("nvidia-smi", "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader")
OLDEST_FLASH = (8, 0)  # compute capability: Ampere (flash-attn's README)
TRIAL_SECONDS = 180  # importing torch from a slow disk takes its time
# Decoders, and what they decode, that work without special hardware: FFmpeg's own `av1` does not.
DECODERS = {"h264": "h264", "hevc": "hevc", "vp9": "vp9", "libdav1d": "av1", "libaom-av1": "av1"}
QUESTION, EXPECTED = "What happens?", "A red circle moves from left to right."
# The self-test's clip, drawn as in the model's training (scripts/tiny_world); lengths in pixels.
SIDE, RADIUS, NUM_FRAMES = 224, 45, 16
RED, WHITE = (222, 40, 40), (252, 252, 252)

Mark = Literal["ok", "note", "problem"]  # a problem keeps the command from working


@dataclass(frozen=True, slots=True)
class Finding:
    """One entry of the report; the text of a problem names the next step."""

    section: str
    subject: str
    mark: Mark
    text: str


Checked = tuple[Any, list[Finding]]


def check_software() -> Checked:
    """List the versions of Python and the packages, and the problems of those that vllava needs."""
    versions = {name: _version(name) for name in (*SHOWN, *OPTIONAL)}
    problems = list(_package_problems())
    python, system = platform.python_version(), platform.platform()
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    findings = [
        Finding(PYTHON, "Python", "ok", f"{python}, {system}"),
        Finding(PYTHON, "packages", "ok", installed),
        *(Finding(PYTHON, "packages", "problem", problem) for problem in problems),
    ]
    return {"python": python, "system": system, "versions": versions, "problems": problems}, findings


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _package_problems() -> Iterator[str]:
    try:
        required = metadata.requires("videollava-cli") or []
    except metadata.PackageNotFoundError:  # vllava need not be installed to run
        required = []
    required = [text for text in required if "extra ==" not in text and "bitsandbytes" not in text]
    names = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in required]
    if missing := [name for name in names if _version(name) is None]:
        yield from (f"{name} is not installed: pip install {name}" for name in missing)
        return
    from packaging.requirements import Requirement  # transformers brings it

    for requirement, version in zip(map(Requirement, required), map(metadata.version, names), strict=True):
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version} does not suit vllava: pip install '{requirement}'"
    for name in IMPORTED:
        try:
            with signals_deferred():
                importlib.import_module(name)
        except (ImportError, OSError) as error:
            yield f"{name} cannot be imported: {first_line(error)}; install it anew"


def check_computer() -> Checked:
    """Find the processors and the memory that this process may use."""
    processors, total, free = num_processors(), total_memory(), free_memory()
    memory = f"{bytes_in_words(total, 'GiB')}, {bytes_in_words(free, 'GiB')} available"
    return {"num_processors": processors, "memory_bytes": total, "available_bytes": free}, [
        Finding(MACHINE, "processors", "ok", f"{processors} processor{'s' if processors > 1 else ''} to use"),
        Finding(MACHINE, "memory", "ok", memory),
    ]


def check_graphics(device: str) -> Checked:
    """Find which GPUs torch can use, and which NVIDIA's driver knows, for a model on a device."""
    import torch

    driver, cards = _ask_driver()
    problem, gpus, cuda = None, [], torch.version.cuda
    try:
        gpus = list(_gpus())
    except RuntimeError as error:  # a GPU that is busy or sick
        problem = first_line(error)
    facts = {"gpus": gpus, "torch_cuda": cuda, "driver": driver, "cards": cards, "problem": problem}
    if problem:
        text = f"not usable: {problem}; see nvidia-smi, or --device cpu"
        return facts, [Finding(MACHINE, "GPU", "note" if device == "cpu" else "problem", text)]
    if not gpus:
        text = "none that torch can use: models run on the processors"
        if cards:
            advice = ", being built without CUDA: install the CUDA build, https://pytorch.org/get-started/locally"
            if cuda:
                advice = f": is the driver too old for CUDA {cuda}, or CUDA_VISIBLE_DEVICES set? Renew the driver, "
                advice += "or unset it"
            text = f"{', '.join(cards)}, driver {driver}: torch cannot use it{advice}"
        return facts, [Finding(MACHINE, "GPU", "note", text)]
    findings = []
    for gpu in gpus:
        total, free = bytes_in_words(gpu["total_bytes"], "GiB"), bytes_in_words(gpu["free_bytes"], "GiB")
        text = f"{gpu['name']}, {total}, {free} free"
        if gpu["capability"]:
            text += ", compute capability {}.{}".format(*gpu["capability"])
        findings.append(Finding(MACHINE, gpu["device"], "ok", text))
    if cuda:
        version = f"NVIDIA driver {driver}" if driver else "no nvidia-smi to tell its version"
        findings.append(Finding(MACHINE, "driver", "ok", f"{version}; torch is built for CUDA {cuda}"))
    return facts, findings


def _ask_driver() -> tuple[str | None, list[str]]:
    """Return the version of NVIDIA's driver, and its cards with their memory."""
    try:  # a sick driver never answers
        done = subprocess.run(  # noqa: S603 (a fixed command)
            DRIVER_QUERY, capture_output=True, text=True, timeout=20, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None, []
    rows = [row.split(", ") for row in done.stdout.splitlines() if row.count(", ") == 2]
    return (rows[0][0] if rows else None), [f"{name} ({memory})" for _, name, memory in rows]


def _gpus() -> Iterator[dict[str, Any]]:
    import torch

    keys = ("device", "name", "total_bytes", "free_bytes", "capability")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name, capability = torch.cuda.get_device_name(index), list(torch.cuda.get_device_capability(index))
            yield dict(zip(keys, (f"cuda:{index}", name, total, free, capability), strict=True))
    elif torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = total - torch.mps.driver_allocated_memory()
        yield dict(zip(keys, ("mps", "Apple GPU", total, free, None), strict=True))


def chosen_device(settings: Settings, size: ModelSize | None) -> dict[str, str]:
    """Return the device and number format that settings choose, by torch's names; raises UsageError."""
    from videollava_cli.engine.loading import choose_device

    device = choose_device(settings.device)
    return {"device": str(device), "dtype": compute_dtype(size, settings, is_on_cpu=device.type == "cpu")}


def check_settings(settings: Settings, facts: Mapping[str, Any]) -> Checked:
    """Find whether this machine can do what the settings ask."""
    from videollava_cli.engine.loading import check_machine

    try:
        check_machine(settings)
    except UsageError as error:
        return str(error), [Finding(MACHINE, "settings", "problem", str(error))]
    return None, [Finding(MACHINE, "settings", "ok", f"they choose {facts['device']}, {facts['dtype']}")]


def check_four_bit(settings: Settings, facts: Mapping[str, Any]) -> Checked:
    """Find whether bitsandbytes runs 4-bit weights on the device that was found, by doing so."""
    reason = _reason_against("bitsandbytes", facts["device"], facts["dtype"])
    text = f"a 4-bit layer ran on {facts['device']}: bitsandbytes {_version('bitsandbytes')}"
    is_wanted = settings.load_4bit or settings.load_8bit
    return _tried("4-bit weights", reason, text, "--load-4bit and 7b-4bit", is_wanted=is_wanted)


def check_flash_attention(settings: Settings, facts: Mapping[str, Any]) -> Checked:
    """Find whether Flash-Attention 2 runs on the device that was found; only a GPU that is new enough is tried."""
    device, gpus = facts["device"], {gpu["device"]: gpu for gpu in facts["graphics"]["gpus"]}
    gpu = gpus.get("cuda:0" if device == "cuda" else device, {"capability": None})
    if gpu["capability"] is None:
        reason: str | None = f"it needs an NVIDIA GPU, and the device is {device}"
    elif tuple(gpu["capability"]) < OLDEST_FLASH:
        reason = f"it needs an Ampere GPU or newer, and this is {gpu['name']}"
    else:
        reason = _reason_against("flash-attn", device, "bfloat16" if facts["dtype"] == "bfloat16" else "float16")
    is_wanted = settings.attn_implementation == "flash_attention_2"
    return _tried("flash-attn", reason, f"it ran on {device}: --flash-attn works", "--flash-attn", is_wanted=is_wanted)


def _tried(subject: str, reason: str | None, text: str, option: str, *, is_wanted: bool) -> Checked:
    mark: Mark = "ok"
    if reason is not None:
        mark, text = "problem" if is_wanted else "note", f"not usable: {reason}; go without {option}"
    return {"is_usable": reason is None, "reason": reason}, [Finding(OPTIONS, subject, mark, text)]


def _reason_against(package: str, device: str, dtype: str) -> str | None:
    """Return why a package does not run, or None; native code may crash, so a child process tries it."""
    if util.find_spec(package.replace("-", "_")) is None:
        return f"{package} is not installed: pip install {package}"
    folder = str(Path(__file__).resolve().parents[2])  # vllava may run without being installed
    program = f"import sys; sys.path.append({folder!r}); from {__name__} import run_package; run_package(*sys.argv[1:])"
    command = [sys.executable, "-P", "-c", program, package, device, dtype]
    try:
        done = subprocess.run(  # noqa: S603 (our own program)
            command, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"it had not ended after {TRIAL_SECONDS} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"it crashed with {signal.Signals(-done.returncode).name}"
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    return lines[-1] if lines else "it failed without a word"


def run_package(package: str, device: str, dtype: str) -> None:
    """Run a 4-bit layer as the loader makes it, or Flash-Attention 2; if it fails, print why and exit with status 1."""
    try:
        library: Any = importlib.import_module(package.replace("-", "_"))
        import torch

        options: Any = {"device": device, "dtype": getattr(torch, dtype)}
        if package == "flash-attn":
            keys = torch.ones(1, 4, 2, 64, **options)  # (batch, tokens, heads, head size)
            result = library.flash_attn_func(keys, keys, keys, causal=True)
        else:
            how: Any = {"compute_dtype": options["dtype"], "quant_type": "nf4"}
            layer = library.nn.Linear4bit(64, 64, bias=False, **how).to(device)
            with torch.inference_mode():
                result = layer(torch.ones(1, 64, **options))  # (1, 64)
        if not bool(result.isfinite().all()):
            raise ArithmeticError("it ran, and its result is no number")
    except Exception as error:  # any failure is the answer
        print(first_line(error), flush=True)  # noqa: T201 (the parent process reads it)
        sys.exit(1)


def check_video() -> Checked:
    """Find PyAV's FFmpeg, and whether it decodes what people have."""
    import av
    from av.codec import Codec

    decoders = dict.fromkeys(DECODERS.values(), False)
    for decoder, name in DECODERS.items():
        with suppress(ValueError):  # PyAV's UnknownCodecError
            Codec(decoder, "r")
            decoders[name] = True
    present = ", ".join(name for name, is_there in decoders.items() if is_there)
    text = f"PyAV {av.__version__} with FFmpeg {av.ffmpeg_version_info} decodes {present or 'nothing that is usual'}"
    if lacking := [name for name, is_there in decoders.items() if not is_there]:
        text += f", but not {', '.join(lacking)}: PyAV's wheels do, pip install --force-reinstall av"
    facts = {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info, "decoders": decoders}
    return facts, [Finding(OPTIONS, "video", "note" if lacking else "ok", text)]


def check_ray() -> Finding:
    """Find whether `vllava batch --ray` has its package."""
    if version := _version("ray"):
        return Finding(OPTIONS, "ray", "ok", f"{version}, for vllava batch --ray")
    return Finding(OPTIONS, "ray", "note", "not installed; vllava batch --ray needs the extra: pip install '.[ray]'")


def check_disk() -> Checked:
    """Find the disk space where checkpoints are fetched to, in a folder that need not exist yet."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE).expanduser().absolute()
    usage, problem = shutil.disk_usage(_nearest(folder)), _problem_of_writing(folder)
    facts = {"folder": str(folder), "total_bytes": usage.total, "free_bytes": usage.free, "problem": problem}
    text = f"{folder}, {bytes_in_words(usage.free, 'GB')} free"
    if problem:
        text += f"; nothing can be fetched into it: {problem}: set HF_HOME to a folder that you may write"
    return facts, [Finding(FILES, "cache", "note" if problem else "ok", text)]


def _nearest(folder: Path) -> Path:
    """Return the part of a path that is there."""
    return next(each for each in (folder, *folder.parents) if os.path.exists(each))


def _problem_of_writing(folder: Path) -> str | None:
    """Return why nothing can be written into a folder, which need not exist yet; None if something can."""
    nearest = _nearest(folder)
    if not nearest.is_dir():
        return f"{str(nearest)!r} is no folder"
    try:
        with TemporaryFile(dir=nearest):
            return None
    except OSError as error:
        return f"{str(nearest)!r}: {error.strerror or error}"


def check_quantized_cache() -> Checked:
    """Count the quantized weights on disk; their sizes are compared, their content is not read."""
    folder = cache_folder()
    found = entries(folder)
    num_unusable = sum(entry.state != "kept" for entry in found)
    num_bytes = sum(entry.num_bytes for entry in found)
    text = f"{len(found)} in {folder}, {bytes_in_words(num_bytes, 'GB')}" if found else f"nothing yet, in {folder}"
    if num_unusable:
        text += f", {num_unusable} unfinished or damaged: see vllava cache"
    if problem := _problem_of_writing(folder):
        text += f"; nothing can be kept in it: {problem}: set XDG_CACHE_HOME to a folder that you may write"
    facts = {"folder": str(folder), "number": len(found), "num_unusable": num_unusable, "num_bytes": num_bytes}
    mark: Mark = "note" if num_unusable or problem else "ok"
    return facts | {"problem": problem}, [Finding(FILES, "4-bit kept", mark, text)]


def check_answer(settings: Settings) -> Checked:
    """Ask the bundled model about a clip drawn for it, so that reader, preprocessing and engine run."""
    from videollava_cli.engine.startup import load

    began = time.perf_counter()
    answer = reason = None
    try:
        with TemporaryDirectory(prefix="vllava-doctor-") as folder:
            path = Path(folder, "circle.mp4")
            _write_clip(path)
            engine = load("tiny", device=settings.device, dtype=settings.dtype)  # type: ignore[arg-type]  # any str
            answer = "".join(chunk.text for chunk in engine.ask([path], QUESTION))
    except (VllavaError, OSError, RuntimeError) as error:  # FFmpeg's and torch's are of the latter two
        reason = first_line(error)
    seconds, is_right = time.perf_counter() - began, answer == EXPECTED
    outcome = f"it failed: {reason}" if answer is None else f"tiny said {answer!r}"
    how = f" after {seconds:.1f} s" if is_right else f"; true is {EXPECTED!r}. Try --device cpu, or install vllava anew"
    text = f"asked {QUESTION!r}, {outcome}{how}"
    facts = {"question": QUESTION, "expected": EXPECTED, "answer": answer, "seconds": seconds, "reason": reason}
    return facts | {"is_right": is_right}, [Finding("Self-test", "tiny", "ok" if is_right else "problem", text)]


def _write_clip(path: Path) -> None:
    """Encode a red circle that moves from left to right, with MPEG-4: every FFmpeg has its encoder."""
    import av
    import numpy as np

    down, across = np.mgrid[:SIDE, :SIDE] + 0.5  # (H, W) each
    with av.open(path, "w") as container:
        options = {"qscale": "2", "flags": "+qscale"}
        stream = container.add_stream("mpeg4", 8, options, width=SIDE, height=SIDE, pix_fmt="yuv420p")
        for center in np.linspace(SIDE / 4, SIDE * 3 / 4, NUM_FRAMES):
            inside = np.clip(RADIUS + 0.5 - np.hypot(across - center, down - SIDE / 2), 0, 1)[..., None]  # (H, W, 1)
            frame = (inside * RED + (1 - inside) * WHITE).astype(np.uint8)  # (H, W, 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
