"""`vllava doctor` says what a machine can run: machines that are none of ours made up, ours against other sources."""

import json
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import av
import psutil
import pytest
import torch
from container import enter_container
from in_process import vllava
from rich.cells import cell_len
from terminals import Terminal

from videollava_cli import __version__
from videollava_cli.engine.checkpoint import BUNDLED_FOLDER

GIB = 1 << 30
QUESTION, EXPECTED = "What happens?", "A red circle moves from left to right."
SEVEN_B = "models--LanguageBind--Video-LLaVA-7B-hf"
COMMIT = "0" * 40
USABLE, BROKEN = "raise SystemExit(0)", "raise ImportError('broken')"  # a bitsandbytes that runs, and one that does not

ASK_TINY = 'vllava ask -m tiny clip.mp4 "What happens?"'


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write packages of our own, found before those that are installed, here and in child processes."""
    folder = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))

    def write(name, program, file="__init__.py"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_text(program)

    return write


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, package):
    """Start with empty caches, of which the hub's is returned, and a bitsandbytes that is quick to try."""
    package("bitsandbytes", USABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def machine(tmp_path, monkeypatch, package):
    """Make up a machine: the GiB of its cards, each with half a GiB taken, memory, disk, driver and bitsandbytes."""

    def make(*cards, ram=32, disk=100, capability=(8, 6), cuda="12.8", driver=None, four_bit=USABLE):
        package("bitsandbytes", four_bit)
        enter_container(tmp_path, monkeypatch)
        memory = SimpleNamespace(total=2 * ram * GIB, available=ram * GIB)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        space = SimpleNamespace(total=200 * 10**9, free=disk * 10**9)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: space)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cards))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
        sizes = [(gib * GIB - GIB // 2, gib * GIB) for gib in cards]
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: sizes[index])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {cards[index]}")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        nvidia_smi = tmp_path / "bin" / "nvidia-smi"
        nvidia_smi.parent.mkdir(exist_ok=True)
        nvidia_smi.write_text(f"#!/bin/sh\n{driver or 'exit 9'}\n")
        nvidia_smi.chmod(0o755)
        monkeypatch.setenv("PATH", str(nvidia_smi.parent))

    return make


def doctor(*arguments, is_tested=False, **environment):
    """Return what doctor finds, as --json prints it."""
    done = vllava("doctor", "--json", *([] if is_tested else ["--no-self-test"]), *arguments, **environment)
    report = json.loads(done.stdout)
    assert (done.status, done.stderr) == (0 if report["works"] else 1, "")
    return report


def finding(report, section, subject):
    """Return mark and text of the one finding about something; the section is named by its first word."""
    found = [f for f in report["findings"] if (f["section"].split()[0], f["subject"]) == (section, subject)]
    assert len(found) == 1
    return found[0]["mark"], found[0]["text"]


def memory_of(*arguments):
    """Return mark and text about the memory of the settings' model, and why the command would not work."""
    report = doctor(*arguments)
    return *finding(report, "Room", report["settings"]["model"]), report["reason"]


def write_snapshot(cache, *, shards=(), files=("config.json", "preprocessor_config.json", "tokenizer.json")):
    """Write a checkpoint of two shards of 3 and 5 bytes, or what is wanted of it, as the hub's client does."""
    (cache / SEVEN_B / "refs").mkdir(parents=True)
    (cache / SEVEN_B / "refs" / "main").write_text(COMMIT)
    snapshot = cache / SEVEN_B / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in files:
        shutil.copy(BUNDLED_FOLDER / "tiny" / name, snapshot)
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, size in shards:
        (snapshot / name).write_bytes(b"0" * size)
    return str(snapshot)


# The machine


def test_container_counts_what_it_is_given_not_what_the_machine_has(machine, tmp_path, monkeypatch):
    machine()
    enter_container(tmp_path, monkeypatch, limit=8 * GIB, used=3 * GIB, quota=1)

    found = doctor("-m", "tiny")

    assert found["computer"] == {"num_processors": 1, "memory_bytes": 8 * GIB, "available_bytes": 5 * GIB}
    assert finding(found, "Machine", "processors")[1] == "1 processor to use"
    assert finding(found, "Machine", "memory")[1] == "8.0 GiB, 5.0 GiB available"


def test_gpus_are_named_as_torch_and_the_driver_see_them(machine):
    machine(8, 24, driver="echo '570.1, NVIDIA H200, 143771 MiB'", capability=(9, 0))

    report = doctor("-m", "tiny")

    graphics = report["graphics"]
    one, other = graphics["gpus"]
    sizes = {"total_bytes": 8 * GIB, "free_bytes": 15 * GIB // 2}
    assert one == {"device": "cuda:0", "name": "Card 8", "capability": [9, 0], **sizes}
    assert (other["device"], other["total_bytes"]) == ("cuda:1", 24 * GIB)
    assert (graphics["torch_cuda"], graphics["driver"]) == ("12.8", "570.1")
    assert (graphics["cards"], graphics["problem"]) == (["NVIDIA H200 (143771 MiB)"], None)
    text = "Card 8, 8.0 GiB, 7.5 GiB free, compute capability 9.0"
    assert finding(report, "Machine", "cuda:0") == ("ok", text)
    text = "NVIDIA driver 570.1; torch is built for CUDA 12.8"
    assert finding(report, "Machine", "driver") == ("ok", text)


def test_apple_gpu_has_what_its_driver_recommends_takes_half_precision_and_is_never_spread(machine, monkeypatch):
    machine(cuda=None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * GIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 1)

    report = doctor()

    sizes = {"total_bytes": 12 * GIB, "free_bytes": 12 * GIB - 1}
    assert report["graphics"]["gpus"] == [{"device": "mps", "name": "Apple GPU", "capability": None, **sizes}]
    mark, text = finding(report, "Room", "7b")
    assert mark == "problem"
    assert text.startswith("fits with --load-4bit, 5.9 GiB; without it: weights 13.7 GiB")


def test_nvidia_smi_that_fails_says_nothing(machine):
    machine(driver="echo 'NVIDIA-SMI has failed, because, it is sick'; exit 9")

    graphics = doctor("-m", "tiny")["graphics"]

    assert (graphics["driver"], graphics["cards"]) == (None, [])


@pytest.mark.parametrize(
    ("cuda", "advice"),
    [(None, "install the CUDA build, https://pytorch.org/get-started/locally"), ("12.8", "too old for CUDA 12.8")],
)
def test_card_that_torch_cannot_use_is_noted_with_what_to_do(machine, cuda, advice):
    machine(cuda=cuda, driver="echo '470.1, GTX 1080, 8192 MiB'")

    mark, text = finding(doctor("-m", "tiny"), "Machine", "GPU")

    assert mark == "note"
    assert text.startswith("GTX 1080 (8192 MiB), driver 470.1: torch cannot use it")
    assert advice in text


@pytest.mark.parametrize(("device", "mark"), [("cuda", "problem"), ("cpu", "note")])
def test_gpu_that_is_busy_is_a_problem_unless_the_processors_are_to_work(machine, monkeypatch, device, mark):
    def busy(_index):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nCompile with ...")

    machine(24)
    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)

    report = doctor("-m", "tiny", "--device", device)

    text = "not usable: CUDA error: all CUDA-capable devices are busy; see nvidia-smi, or --device cpu"
    assert finding(report, "Machine", "GPU") == (mark, text)
    assert report["graphics"]["problem"] == "CUDA error: all CUDA-capable devices are busy"
    assert report["models"][0]["fit"] == ("unknown" if device == "cuda" else "fits")


def test_folder_that_is_not_there_yet_has_the_space_of_its_disk(tmp_path, cache):
    disk = doctor("-m", "tiny")["disk"]

    assert not cache.exists()
    assert (disk["folder"], disk["total_bytes"]) == (str(cache), shutil.disk_usage(tmp_path).total)


@pytest.mark.parametrize("place", ["hub", "kept"])
def test_cache_that_cannot_be_written_is_named(tmp_path, cache, monkeypatch, place):
    (tmp_path / "file").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))

    report = doctor("-m", "tiny")

    subject, remedy = {"hub": ("cache", "set HF_HOME"), "kept": ("4-bit kept", "set XDG_CACHE_HOME")}[place]
    mark, text = finding(report, "Checkpoints", subject)
    assert mark == "note"
    assert f"{str(tmp_path / 'file')!r} is no folder: {remedy} to a folder that you may write" in text
    assert report["disk" if place == "hub" else "kept"]["problem"] == f"{str(tmp_path / 'file')!r} is no folder"


def test_checkpoint_that_cannot_be_kept_is_a_problem(machine, tmp_path, monkeypatch):
    machine(24)
    (tmp_path / "file").write_text("a file where a folder should be")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))

    report = doctor()

    assert report["works"] is False
    assert "not there, and none can be fetched: " in report["reason"]
    assert report["run"] == ASK_TINY


def test_nothing_is_left_in_a_folder_that_was_tried(cache):
    cache.mkdir(parents=True)

    doctor("-m", "tiny")

    assert list(cache.iterdir()) == []


def test_last_line_says_what_to_run():
    assert vllava("doctor", "-m", "tiny", "--no-self-test").stdout.splitlines()[-1] == f"Run: {ASK_TINY}"


def test_last_line_names_the_option_with_which_a_model_fits(machine):
    machine(ram=8)

    last = vllava("doctor", "--no-self-test").stdout.splitlines()[-1]

    assert last == 'Run: vllava ask -m 7b --load-4bit clip.mp4 "What happens?"'
    assert len(last) <= 80


# Memory


NOT, WITH_4BIT, FITS = "does_not_fit", "fits_with_load_4bit", "fits"


@pytest.mark.parametrize(
    ("gib", "fit", "fit_4bit"), [(4, NOT, NOT), (8, WITH_4BIT, FITS), (16, FITS, FITS), (80, FITS, FITS)]
)
def test_a_card_takes_weights_and_an_answer_or_not(machine, gib, fit, fit_4bit):
    machine(gib)

    found = {model["name"]: model["fit"] for model in doctor()["models"]}

    assert found == {"7b": fit, "7b-4bit": fit_4bit, "tiny": "fits"}


def test_arithmetic_is_shown_beside_what_is_free_and_adds_up(machine):
    machine(24)

    report = doctor()

    sums = "weights 13.7 GiB + KV cache 1.4 GiB + activations 0.3 GiB = 15.4 GiB; 23.5 GiB free"
    assert (finding(report, "Room", "7b"), report["reason"]) == (("ok", f"fits: {sums}"), None)
    for model in report["models"]:
        for need in (model["need"], model["need_4bit"]):
            assert need["total"] == need["weights"] + need["cache"] + need["activations"]


def test_small_card_works_slowly_where_the_computers_memory_takes_the_rest(machine):
    machine(8)

    mark, text, reason = memory_of()

    assert (mark, reason) == ("note", None)
    assert text.startswith("fits with --load-4bit, 5.9 GiB; without it: weights 13.7 GiB")
    assert text.endswith("a part would stay in the computer's memory, which is slow")


@pytest.mark.parametrize("arguments", [(), ("--device", "cuda:0")], ids=["little memory", "one device named"])
def test_small_card_does_not_work_where_nothing_else_takes_the_rest(machine, arguments):
    machine(8, ram=4)

    mark, _, reason = memory_of(*arguments)

    assert mark == "problem"
    assert reason.startswith("Room for a question about a clip, 7b: fits with --load-4bit, 5.9 GiB; without it: ")


def test_two_small_cards_share_a_model(machine):
    machine(12, 12)

    mark, text, reason = memory_of()

    assert (mark, reason) == ("ok", None)
    assert text.startswith("fits, spread over 2 GPUs: ")
    assert text.endswith("23.0 GiB free")


def test_processor_needs_twice_the_memory_and_says_what_fits(machine):
    machine(ram=20)

    mark, text, _ = memory_of()

    assert mark == "problem"
    assert text.startswith("fits with --load-4bit, 8.1 GiB; without it: weights 27.5 GiB + KV cache 2.7 GiB")


def test_four_bits_that_do_not_run_are_no_way_out(machine):
    machine(8, ram=4, four_bit=BROKEN)

    mark, text, _ = memory_of()
    mark_4bit, text_4bit, reason_4bit = memory_of("-m", "7b-4bit")

    assert (mark, text[:13]) == ("problem", "does not fit:")
    assert (mark_4bit, text_4bit[:35]) == ("problem", "4-bit weights are not usable here: ")
    assert reason_4bit.startswith("What may be used, 4-bit weights: not usable: broken; ")


def test_checkpoint_of_unknown_size_may_fit_or_not(machine):
    machine(24)

    mark, text, reason = memory_of("-m", "someone/else")

    assert (mark, text[:8], reason) == ("note", "unknown:", None)


# Checkpoints


def test_checkpoint_that_is_not_there_would_be_downloaded(machine):
    machine(24)

    found = doctor()

    text = "not there: 14.7 GB would be downloaded, and the disk has room; the network was not tried"
    assert finding(found, "Checkpoints", "7b") == ("note", text)
    *_, verdict, run = vllava("doctor", "--no-self-test").stdout.splitlines()
    assert verdict == "vllava ask with 7b would work here, once its checkpoint is downloaded"
    assert run == "Run: vllava models pull 7b"


def test_full_disk_keeps_a_checkpoint_from_being_downloaded(machine):
    machine(24, disk=3)

    reason = doctor()["reason"]

    assert "14.7 GB to download are more than the 3.0 GB that are free on the disk: make room, or set HF_HOME" in reason


def test_offline_a_checkpoint_must_be_there(machine):
    machine(24)

    report = doctor("--offline")

    assert finding(report, "Checkpoints", "7b")[0] == "problem"
    assert finding(report, "Checkpoints", "7b-4bit")[0] == "note"
    assert "offline none is downloaded" in report["reason"]


@pytest.mark.parametrize(
    ("shards", "files", "state", "missing", "missing_bytes"),
    [
        ((("one.safetensors", 3), ("two.safetensors", 5)), None, "whole", [], 0),
        ((("one.safetensors", 3),), None, "partly", ["two.safetensors"], 5),
        ((), ("config.json",), "partly", ["preprocessor_config.json"], 14_740_000_000),
    ],
    ids=["whole", "a shard is missing", "a small file is missing"],
)
def test_what_a_download_that_ended_early_left_out_is_named(cache, shards, files, state, missing, missing_bytes):
    snapshot = write_snapshot(cache, shards=shards, **({"files": files} if files else {}))

    report = doctor("--device", "cpu")

    found = report["models"][0]
    assert (found["state"], found["missing"], found["missing_bytes"]) == (state, missing, missing_bytes)
    assert found["folder"] == (None if files else snapshot)
    words = f"there: {snapshot}" if state == "whole" else f"there in part, without {missing[0]}: "
    assert finding(report, "Checkpoints", "7b")[1].startswith(words)


def test_folder_without_weights_is_no_use(tmp_path):
    folder = shutil.copytree(BUNDLED_FOLDER / "tiny", tmp_path / "copy")
    (folder / "model.safetensors").unlink()

    report = doctor("-m", folder)

    assert report["models"][0]["state"] == "broken"
    assert finding(report, "Checkpoints", str(folder)) == ("problem", "no use: it has no model.safetensors")


@pytest.mark.parametrize(
    ("made", "mark", "expected"),
    [
        ([], "ok", "nothing yet, in "),
        (["model-4bit-0123"], "note", ", 1 unfinished or damaged: see vllava cache"),
        (["a.unfinished", "b.unfinished"], "note", ", 2 unfinished or damaged: see vllava cache"),
    ],
)
def test_quantized_weights_on_disk_are_counted(tmp_path, made, mark, expected):
    folder = tmp_path / "cache" / "vllava" / "quantized"
    for name in made:
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(bytes(1000))

    report = doctor("-m", "tiny")

    number = len(made)
    counts = {"folder": str(folder), "number": number, "num_unusable": number, "num_bytes": 1000 * number}
    assert report["kept"] == {**counts, "problem": None}
    found = finding(report, "Checkpoints", "4-bit kept")
    assert found[0] == mark
    assert expected in found[1]


# Libraries, really tried in processes of their own


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (None, "bitsandbytes is not installed: pip install bitsandbytes"),
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12: cannot open shared"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "it crashed with SIGILL"),
    ],
)
def test_bitsandbytes_that_is_missing_or_breaks_is_noted_with_the_reason(package, monkeypatch, program, reason):
    if program is None:
        monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    else:
        package("bitsandbytes", program)

    found = doctor("-m", "tiny", "--device", "cpu")["four_bit"]

    assert not found["is_usable"]
    assert found["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("cards", "capability", "program", "reason"),
    [
        ((), None, None, "it needs an NVIDIA GPU, and the device is cpu"),
        ((16,), (7, 5), None, "it needs an Ampere GPU or newer, and this is Card 16"),
        ((16,), (8, 6), None, "flash-attn is not installed: pip install flash-attn"),
        ((16,), (8, 6), "raise ImportError('undefined symbol: _ZN3c10')", "undefined symbol: _ZN3c10"),
    ],
)
def test_flash_attention_needs_a_new_gpu_and_a_package_built_for_this_torch(
    machine, package, monkeypatch, cards, capability, program, reason
):
    machine(*cards, capability=capability)
    if program is None:
        monkeypatch.setitem(sys.modules, "flash_attn", None)
    else:
        package("flash_attn", program)

    assert doctor("-m", "tiny")["flash_attention"] == {"is_usable": False, "reason": reason}


@pytest.mark.parametrize(("option", "subject"), [("--load-4bit", "4-bit weights"), ("--flash-attn", "flash-attn")])
def test_what_is_not_usable_is_a_problem_only_where_it_is_wanted(machine, package, option, subject):
    machine(24, four_bit=BROKEN)
    package("flash_attn", BROKEN)

    marks = [finding(doctor("-m", "tiny", *options), "What", subject)[0] for options in ((), (option,))]

    assert marks == ["note", "problem"]


def need_package(package, requirement):
    about = f"Metadata-Version: 2.1\nName: videollava-cli\nVersion: 0\nRequires-Dist: {requirement}\n"
    package("videollava_cli-0.dist-info", about, "METADATA")


@pytest.mark.parametrize(
    ("requirement", "problem"),
    [
        ("left-pad>=1", "left-pad is not installed: pip install left-pad"),
        ("numpy<1", f"numpy {metadata.version('numpy')} does not suit vllava: pip install 'numpy<1'"),
    ],
)
def test_package_that_is_missing_or_does_not_fit_ends_the_check_up_with_what_to_do(package, requirement, problem):
    need_package(package, requirement)

    report = doctor()

    assert report["reason"] == f"Python and its packages, packages: {problem}"
    assert (report["software"]["problems"], report["models"], report["device"]) == ([problem], [], None)
    *_, verdict, run = vllava("doctor").stdout.splitlines()
    assert verdict.endswith(problem)
    assert run == f"Run: {problem.rpartition(': ')[2]}"


def test_package_that_cannot_be_imported_ends_the_check_up_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)

    assert "av cannot be imported: " in doctor("-m", "tiny")["reason"]


def test_ffmpeg_without_a_decoder_is_noted(monkeypatch):
    def codec(name, _mode):
        if name in ("libdav1d", "libaom-av1"):
            raise ValueError(name)

    monkeypatch.setattr("av.codec.Codec", codec)

    report = doctor("-m", "tiny", "--device", "cpu")

    mark, text = finding(report, "What", "video")
    assert (mark, report["video"]["decoders"]["av1"]) == ("note", False)
    assert "decodes h264, hevc, vp9, but not av1: " in text


# The self-test


def test_self_test_shows_a_red_circle_that_moves_right_and_a_blue_one_is_a_wrong_answer(monkeypatch):
    frames = []

    def swap_colours(frame, **_format):
        frames.append(frame)
        return from_ndarray(frame, format="bgr24")

    from_ndarray = av.VideoFrame.from_ndarray
    monkeypatch.setattr(av, "VideoFrame", SimpleNamespace(from_ndarray=swap_colours))

    report = doctor("-m", "tiny", "--device", "cpu", is_tested=True)

    columns = [((frame[..., 0] > 200) & (frame[..., 1] < 100)).any(0).nonzero()[0].mean() for frame in frames]
    assert columns == sorted(set(columns))
    assert (len(frames), frames[0].shape) == (16, (224, 224, 3))
    answer = "A blue circle moves from left to right."
    assert (report["self_test"]["answer"], report["self_test"]["is_right"]) == (answer, False)
    expected = f"Self-test, tiny: asked {QUESTION!r}, tiny said {answer!r}; true is {EXPECTED!r}. Try --device cpu"
    assert report["reason"].startswith(expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_self_test_that_cannot_run_says_why():
    report = doctor("-m", "tiny", "--device", "cuda", is_tested=True)

    reason = "device is 'cuda' and torch finds no CUDA GPU: give --device cpu"
    assert (report["self_test"]["is_right"], report["self_test"]["reason"]) == (False, reason)
    assert report["settings_problem"] == reason
    mark, text = finding(report, "Self-test", "tiny")
    assert mark == "problem"
    assert f"it failed: {reason}; true is " in text


# The report


def test_report_is_readable_in_80_columns_and_ends_with_the_verdict_and_what_to_run(machine):
    machine(8, ram=4)

    done = vllava("doctor", "--no-self-test")

    *lines, verdict, run = done.stdout.splitlines()
    assert max(map(cell_len, (*lines, run))) <= 80
    assert lines[0] == "Python and its packages"
    assert "  problem  7b             fits with --load-4bit, 5.9 GiB; without it: weights" in lines
    assert verdict.startswith("vllava ask with 7b would not work here: Room for a question about a clip, 7b: fits ")


@pytest.mark.parametrize(
    "name", ["deep/" * 40 + "end", "動画" * 35, "a folder " * 12 + "end"], ids=["deep", "wide", "words"]
)
def test_paths_of_any_length_and_width_are_whole_in_a_report_of_80_columns(tmp_path, monkeypatch, name):
    folder = shutil.copytree(BUNDLED_FOLDER / "tiny", tmp_path / name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))

    done = vllava("doctor", "-m", folder, "--device", "cpu", "--no-self-test", XDG_CACHE_HOME=str(folder / "cache"))

    *lines, verdict, run = done.stdout.splitlines()
    assert max(map(cell_len, (*lines, run))) <= 80
    assert verdict == f"vllava ask with {folder} would work here"
    text = "".join("".join(lines).split())
    for path in (folder, folder / "hub", folder / "cache" / "vllava" / "quantized"):
        assert "".join(str(path).split()) in text


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}], ids=["coloured", "plain"])
def test_marks_have_colours_in_a_terminal_unless_it_wants_none(package, environment):
    need_package(package, "left-pad>=1")  # so that it is quick
    with Terminal("-m", "videollava_cli", "doctor", **environment) as terminal:
        assert terminal.end() == 1

    assert "vllava ask with 7b would not work here: " in terminal.output
    for mark in ("\x1b[32mok\x1b[0m", "\x1b[1;31mproblem\x1b[0m", "\x1b[3"):
        assert (mark in terminal.raw) == (not environment)


@pytest.fixture(scope="module")
def real():
    """Let doctor look at this machine, once."""
    return vllava("doctor", "-m", "tiny", "--device", "cpu", "--json")


def test_check_up_of_this_machine_is_true(real):
    assert (real.status, real.stderr) == (0, "")
    report = json.loads(real.stdout)

    assert (report["vllava"], report["works"], report["reason"]) == (__version__, True, None)
    assert report["software"]["python"] == ".".join(map(str, sys.version_info[:3]))
    installed = {distribution.metadata["Name"].replace("_", "-") for distribution in metadata.distributions()}
    for name, version in report["software"]["versions"].items():
        assert version == (metadata.version(name) if name.replace("_", "-") in installed else None)
    assert report["computer"]["num_processors"] <= len(os.sched_getaffinity(0))
    assert 0 < report["computer"]["available_bytes"] < report["computer"]["memory_bytes"]
    assert report["graphics"]["torch_cuda"] == torch.version.cuda
    assert len(report["graphics"]["gpus"]) == torch.cuda.device_count()
    assert (report["device"], report["dtype"], report["settings_problem"]) == ("cpu", "float32", None)


def test_check_up_of_this_machine_names_disk_models_and_what_was_tried(real):
    report = json.loads(real.stdout)

    folder = Path(report["disk"]["folder"])
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    assert report["disk"]["total_bytes"] == shutil.disk_usage(there).total
    assert report["four_bit"] == {"is_usable": True, "reason": None}
    assert report["flash_attention"]["is_usable"] is False
    assert report["video"]["decoders"] == {"h264": True, "hevc": True, "vp9": True, "av1": True}
    tiny = report["models"][0]
    size = (BUNDLED_FOLDER / "tiny" / "model.safetensors").stat().st_size
    assert (tiny["name"], tiny["state"], tiny["fit"], tiny["need"]["weights"]) == ("tiny", "whole", "fits", 2 * size)
    test = report["self_test"]
    assert (test["question"], test["answer"], test["is_right"], test["reason"]) == (QUESTION, EXPECTED, True, None)
    assert {finding["mark"] for finding in report["findings"]} <= {"ok", "note", "problem"}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-m", "tinny"], 5, "no model 'tinny'; did you mean 'tiny'? "),
        (["--load-4bit", "--load-8bit"], 2, "load_4bit and load_8bit exclude each other: "),
        (["--device", "toaster"], 2, "device is 'toaster': give auto, cpu, cuda, cuda:1 or mps"),
        (["clip.mp4"], 2, "Got unexpected extra argument"),
    ],
)
def test_mistake_is_one_line_on_stderr(arguments, status, message):
    done = vllava("doctor", *arguments)

    assert (done.status, done.stdout) == (status, "")
    assert done.stderr.startswith(f"vllava: error: {message}")
    assert done.stderr.count("\n") == 1


def test_settings_that_do_not_suit_the_machine_fail_with_the_reason_in_the_last_line_but_one(package):
    package("bitsandbytes", BROKEN)  # fails sooner than it works

    done = vllava("doctor", "-m", "tiny", "--device", "cpu", "--load-8bit", "--no-self-test")

    assert (done.status, done.stderr) == (1, "")
    reason = "Machine, settings: 8-bit weights need a CUDA GPU, and the device is 'cpu': use --load-4bit"
    assert done.stdout.splitlines()[-2:] == [
        f"vllava ask with tiny would not work here: {reason}",
        "Run: vllava doctor, once more, when that is mended",
    ]
