"""`vllava doctor` tells what a machine can run: machines that are none of ours by fakes, ours against other sources."""

import json
import os
import pty
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from videollava_cli import __version__
from videollava_cli.console import Console
from videollava_cli.doctor import examine, libraries, machine
from videollava_cli.doctor.facts import (
    Computer,
    Disk,
    Facts,
    Fit,
    Gpu,
    Graphics,
    Mark,
    SelfTest,
    Software,
    State,
    Trial,
    Video,
)
from videollava_cli.doctor.findings import find, reason_against
from videollava_cli.doctor.models import examine_model, find_place, look_at_files, models_to_examine
from videollava_cli.doctor.report import json_report, last_line, show
from videollava_cli.doctor.selftest import EXPECTED, QUESTION, draw_frames, run_self_test
from videollava_cli.engine.checkpoint import BUNDLED_FOLDER
from videollava_cli.errors import UsageError
from videollava_cli.settings import presets_folder, resolve

VLLAVA = (sys.executable, "-m", "videollava_cli", "doctor")
GIB = 1 << 30
WORKS, NO_GPU = Trial(is_usable=True), Trial(is_usable=False, reason="it needs an NVIDIA GPU, and the device is cpu")
DECODERS = {"h264": True, "hevc": True, "vp9": True, "av1": True}
SEVEN_B = "models--LanguageBind--Video-LLaVA-7B-hf"
COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Start with an empty hub cache."""
    folder = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def settings_of(**flags):
    return resolve(flags, presets=presets_folder())


def card(gib, index=0, capability=(8, 6)):
    """Return a GPU of so many GiB, of which half a GiB is taken."""
    return Gpu(f"cuda:{index}", f"Card {gib}", gib * GIB, gib * GIB - GIB // 2, capability)


def facts_of(settings, *gpus, ram_gib=32, disk_gb=100, four_bit=WORKS, **changes):
    """Return what a check-up of a machine with these cards finds; its hub cache is the test's."""
    device = (gpus[0].device.partition(":")[0] if settings.device == "auto" else settings.device) if gpus else "cpu"
    place = replace(find_place(device, settings, gpus, ram_gib * GIB), has_4bit=four_bit.is_usable)
    found = Facts(
        Software("3.11.7", "Linux", {"torch": "2.13.0", "bitsandbytes": "0.50.2", "ray": None}),
        Computer(8, 2 * ram_gib * GIB, ram_gib * GIB),
        Disk("/cache", 200 * 10**9, disk_gb * 10**9),
        device=device,
        dtype="float16" if gpus else "float32",
        graphics=Graphics(tuple(gpus), "12.8", "570.1", tuple(gpu.name for gpu in gpus)),
        four_bit=four_bit,
        flash_attention=NO_GPU,
        video=Video("18.1.0", "8.1.2", DECODERS),
        models=tuple(examine_model(each, place) for each in models_to_examine(settings)),
    )
    return replace(found, **changes)


def said(findings, section, subject):
    """Return mark and text of the one finding about something."""
    [found] = [f for f in findings if (f.section.partition(" ")[0], f.subject) == (section, subject)]
    return found.mark, found.text


def room_of(settings, *gpus, **machine_options):
    """Return mark and text about the room of the settings' model, and why the command would not work."""
    findings = find(facts_of(settings, *gpus, **machine_options), settings)
    return *said(findings, "Room", settings.model), reason_against(findings)


def hub_snapshot(cache, *, shards=(), files=("config.json", "preprocessor_config.json", "tokenizer.json")):
    """Write a checkpoint of two shards of 3 and 5 bytes, or what is wanted of it, as the hub's client does."""
    folder = cache / SEVEN_B
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in files:
        shutil.copy(BUNDLED_FOLDER / "tiny" / name, snapshot)
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, size in shards:
        (snapshot / name).write_bytes(b"0" * size)
    return snapshot


# The machine


def test_container_counts_what_it_is_given_not_what_the_machine_has(tmp_path):
    group = tmp_path / "sys/fs/cgroup/box"
    for folder in (group, tmp_path / "proc/self"):
        folder.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\nHugePages_Total: 0\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    (group / "memory.max").write_text(f"{8 * GIB}\n")
    (group / "memory.current").write_text(f"{3 * GIB}\n")
    (group.parent / "cpu.max").write_text("100000 100000\n")

    assert machine.look_at_computer(tmp_path) == Computer(1, 8 * GIB, 5 * GIB)


def test_machine_without_proc_has_its_memory_from_the_system_and_nothing_available(tmp_path):
    computer = machine.look_at_computer(tmp_path)

    assert computer.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert computer.available_bytes is None


def fake_torch(*, has_cuda=False, has_mps=False, cuda="12.8"):
    """Return as much of torch as tells of GPUs."""
    return SimpleNamespace(
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(
            is_available=lambda: has_cuda,
            device_count=lambda: 2,
            mem_get_info=lambda index: (index + 1, 10),
            get_device_capability=lambda index: (9, 0),
            get_device_name=lambda index: "H200",
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: has_mps)),
        mps=SimpleNamespace(recommended_max_memory=lambda: 100, driver_allocated_memory=lambda: 1),
    )


def write_nvidia_smi(folder, monkeypatch, script):
    """Put an nvidia-smi of our own into the PATH, and nothing else."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_gpus_are_told_as_torch_and_the_driver_see_them(tmp_path, monkeypatch):
    write_nvidia_smi(tmp_path, monkeypatch, "echo '570.1, NVIDIA H200, 143771 MiB'")

    found = machine.look_at_graphics(fake_torch(has_cuda=True))

    gpus = Gpu("cuda:0", "H200", 10, 1, (9, 0)), Gpu("cuda:1", "H200", 10, 2, (9, 0))
    assert found == Graphics(gpus, "12.8", "570.1", ("NVIDIA H200 (143771 MiB)",))


def test_apple_gpu_has_what_its_driver_recommends():
    found = machine.look_at_graphics(fake_torch(has_mps=True, cuda=None))

    assert found.gpus == (Gpu("mps", "Apple GPU", 100, 99, None),)


def test_nvidia_smi_that_fails_tells_nothing(tmp_path, monkeypatch):
    write_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed'; exit 9")

    assert machine.ask_driver() == (None, ())


@pytest.mark.parametrize(
    ("cuda", "advice"),
    [(None, "install the CUDA build, https://pytorch.org/get-started/locally"), ("12.8", "too old for CUDA 12.8")],
)
def test_card_that_torch_cannot_use_is_told_with_what_to_do(cuda, advice):
    settings = settings_of(model="tiny")
    graphics = Graphics((), cuda, "470.1", ("GTX 1080 (8192 MiB)",))

    mark, text = said(find(facts_of(settings, graphics=graphics), settings), "Machine", "GPU")

    assert mark is Mark.NOTE
    assert text.startswith("GTX 1080 (8192 MiB), driver 470.1: torch cannot use it")
    assert advice in text


@pytest.mark.parametrize(("device", "mark"), [("cuda", Mark.PROBLEM), ("cpu", Mark.NOTE)])
def test_gpu_that_is_busy_is_a_problem_unless_the_processors_are_to_work(device, mark):
    def busy(_index):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nCompile with ...")

    torch_of_it = fake_torch(has_cuda=True)
    torch_of_it.cuda.mem_get_info = busy
    settings = settings_of(model="tiny")

    graphics = machine.look_at_graphics(torch_of_it)

    findings = find(facts_of(settings, graphics=graphics, device=device), settings)
    text = "not usable: CUDA error: all CUDA-capable devices are busy; see nvidia-smi, or --device cpu"
    assert said(findings, "Machine", "GPU") == (mark, text)


def test_folder_that_is_not_there_yet_has_the_room_of_its_disk(tmp_path):
    disk = machine.look_at_disk(tmp_path / "not" / "there")

    assert disk.folder == str(tmp_path / "not" / "there")
    assert disk.total_bytes == shutil.disk_usage(tmp_path).total


# Room


@pytest.mark.parametrize(
    ("gib", "fit", "fit_4bit"),
    [(4, Fit.NOT, Fit.NOT), (8, Fit.WITH_4BIT, Fit.FITS), (16, Fit.FITS, Fit.FITS), (80, Fit.FITS, Fit.FITS)],
)
def test_room_on_a_card_is_that_of_weights_and_an_answer(gib, fit, fit_4bit):
    found = {model.name: model.fit for model in facts_of(settings_of(), card(gib)).models}

    assert found == {"7b": fit, "7b-4bit": fit_4bit, "tiny": Fit.FITS}


def test_arithmetic_is_shown_beside_what_is_free():
    mark, text, reason = room_of(settings_of(), card(24))

    sums = "weights 13.7 GiB + KV cache 1.4 GiB + activations 0.3 GiB = 15.4 GiB; 23.5 GiB free"
    assert (mark, text, reason) == (Mark.OK, f"fits: {sums}", None)


def test_small_card_works_slowly_where_the_memory_takes_the_rest():
    mark, text, reason = room_of(settings_of(), card(8))

    assert (mark, reason) == (Mark.NOTE, None)
    assert text.startswith("fits with --load-4bit, 5.9 GiB; without it: weights 13.7 GiB")
    assert text.endswith("a part would stay in the computer's memory, which is slow")


@pytest.mark.parametrize("flags", [{}, {"device": "cuda:0"}], ids=["little memory", "one device named"])
def test_small_card_does_not_work_where_nothing_else_takes_the_rest(flags):
    mark, _, reason = room_of(settings_of(**flags), card(8), ram_gib=4)

    assert mark is Mark.PROBLEM
    assert reason.startswith("Room for a question about a clip, 7b: fits with --load-4bit, 5.9 GiB; without it: ")


def test_two_small_cards_share_a_model():
    mark, text, reason = room_of(settings_of(), card(12), card(12, 1))

    assert (mark, reason) == (Mark.OK, None)
    assert text.startswith("fits, spread over 2 GPUs: ")
    assert text.endswith("23.0 GiB free")


def test_processor_needs_twice_the_memory_and_says_what_fits():
    mark, text, _ = room_of(settings_of(), ram_gib=20)

    assert mark is Mark.PROBLEM
    assert text.startswith("fits with --load-4bit, 8.1 GiB; without it: weights 27.5 GiB + KV cache 2.7 GiB")


def test_four_bits_that_do_not_run_are_no_way_out():
    broken = Trial(is_usable=False, reason="bitsandbytes is not installed: pip install bitsandbytes")

    mark, text, _ = room_of(settings_of(), card(8), ram_gib=4, four_bit=broken)
    mark_4bit, text_4bit, reason_4bit = room_of(settings_of(model="7b-4bit"), card(8), four_bit=broken)

    assert (mark, text[:13]) == (Mark.PROBLEM, "does not fit:")
    assert (mark_4bit, text_4bit[:35]) == (Mark.PROBLEM, "4-bit weights are not usable here: ")
    assert "pip install bitsandbytes" in reason_4bit


def test_apple_gpu_takes_half_precision_and_is_never_spread():
    gpu = Gpu("mps", "Apple GPU", 12 * GIB, 12 * GIB, None)

    mark, text, _ = room_of(settings_of(), gpu)

    assert mark is Mark.PROBLEM
    assert text.startswith("fits with --load-4bit, 5.9 GiB; without it: weights 13.7 GiB")


def test_checkpoint_of_unknown_size_has_unknown_room():
    settings = settings_of(model="someone/else")

    mark, text, reason = room_of(settings, card(24))

    assert (mark, text[:8], reason) == (Mark.NOTE, "unknown:", None)


# Checkpoints


def test_checkpoint_that_is_not_there_would_be_downloaded():
    settings = settings_of()
    facts = facts_of(settings, card(24))

    findings = find(facts, settings)

    text = "not there: 14.7 GB would be downloaded, and the disk has room; the network was not tried"
    assert said(findings, "Checkpoints", "7b") == (Mark.NOTE, text)
    verdict = last_line(facts, findings, settings)
    assert verdict == "vllava ask with 7b would work here, once its checkpoint is downloaded"


def test_full_disk_keeps_a_checkpoint_from_being_downloaded():
    settings = settings_of()

    reason = reason_against(find(facts_of(settings, card(24), disk_gb=3), settings))

    assert "14.7 GB to download are more than the 3.0 GB that are free on the disk: make room, or set HF_HOME" in reason


def test_offline_a_checkpoint_must_be_there():
    settings = settings_of(offline=True)

    findings = find(facts_of(settings, card(24)), settings)

    assert said(findings, "Checkpoints", "7b")[0] is Mark.PROBLEM
    assert said(findings, "Checkpoints", "7b-4bit")[0] is Mark.NOTE
    assert "offline none is downloaded" in reason_against(findings)


def test_checkpoint_in_the_cache_is_told_with_its_folder(cache):
    snapshot = hub_snapshot(cache, shards=(("one.safetensors", 3), ("two.safetensors", 5)))

    found = look_at_files(settings_of())

    assert (found.state, found.folder, found.missing, found.missing_bytes) == (State.WHOLE, snapshot, (), 0)


def test_shards_of_a_download_that_ended_early_are_named(cache):
    hub_snapshot(cache, shards=(("one.safetensors", 3),))

    found = look_at_files(settings_of())

    assert (found.state, found.missing, found.missing_bytes) == (State.PARTLY, ("two.safetensors",), 5)


def test_small_files_of_a_download_that_ended_early_are_named(cache):
    hub_snapshot(cache, files=("config.json",))

    found = look_at_files(settings_of())

    assert (found.state, found.missing) == (State.PARTLY, ("preprocessor_config.json",))
    assert found.missing_bytes == 14_740_000_000


def test_folder_without_weights_is_no_use(tmp_path):
    folder = shutil.copytree(BUNDLED_FOLDER / "tiny", tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    settings = settings_of(model=str(folder))

    findings = find(facts_of(settings), settings)

    assert said(findings, "Checkpoints", str(folder)) == (Mark.PROBLEM, "no use: it has no model.safetensors")


# Libraries, really tried in processes of their own


def write_package(folder, monkeypatch, name, program):
    """Put a package of our own before those that are installed, here and in child processes."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(program)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12: cannot open shared"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "it crashed with SIGILL"),
    ],
)
def test_bitsandbytes_that_breaks_is_told_with_its_reason(tmp_path, monkeypatch, program, reason):
    write_package(tmp_path, monkeypatch, "bitsandbytes", program)

    trial = libraries.try_four_bit("cpu", "float32")

    assert not trial.is_usable
    assert trial.reason.startswith(reason)


def test_bitsandbytes_that_is_not_installed_is_told_as_such(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)

    assert libraries.try_four_bit("cpu", "float32").reason == (
        "bitsandbytes is not installed: pip install bitsandbytes"
    )


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        (None, "it needs an NVIDIA GPU, and the device is cuda"),
        (card(16, capability=(7, 5)), "it needs an Ampere GPU or newer, and this is Card 16"),
        (card(16), "flash-attn is not installed: pip install flash-attn"),
    ],
)
def test_flash_attention_needs_a_new_gpu_and_its_package(monkeypatch, gpu, reason):
    monkeypatch.setitem(sys.modules, "flash_attn", None)

    assert libraries.try_flash_attention("cuda", "float16", gpu) == Trial(is_usable=False, reason=reason)


def test_flash_attention_built_for_another_torch_is_told_with_its_reason(tmp_path, monkeypatch):
    write_package(tmp_path, monkeypatch, "flash_attn", "raise ImportError('undefined symbol: _ZN3c10')")

    assert libraries.try_flash_attention("cuda", "float16", card(16)).reason == "undefined symbol: _ZN3c10"


@pytest.mark.parametrize(
    ("flags", "subject"),
    [({"load_4bit": True}, "4-bit weights"), ({"attn_implementation": "flash_attention_2"}, "flash-attn")],
)
def test_what_is_not_usable_is_a_problem_only_where_it_is_wanted(flags, subject):
    unusable = Trial(is_usable=False, reason="broken")
    marks = []
    for settings in (settings_of(model="tiny"), settings_of(model="tiny", **flags)):
        facts = facts_of(settings, card(24), four_bit=unusable, flash_attention=unusable)
        marks.append(said(find(facts, settings), "What", subject)[0])

    assert marks == [Mark.NOTE, Mark.PROBLEM]


def test_package_that_is_missing_ends_the_check_up_with_what_to_do():
    settings = settings_of()
    software = Software("3.11.7", "Linux", {"torch": None}, ("torch is not installed: pip install torch",))

    findings = find(Facts(software, Computer(2, None, None), Disk("/cache", 10, 5)), settings)

    assert reason_against(findings) == "Python and its packages, packages: torch is not installed: pip install torch"


def test_ffmpeg_without_a_decoder_is_noted():
    settings = settings_of(model="tiny")
    facts = facts_of(settings, video=Video("18.1.0", "8.1.2", {**DECODERS, "av1": False}))

    mark, text = said(find(facts, settings), "What", "video")

    assert mark is Mark.NOTE
    assert "decodes h264, hevc, vp9, but not av1: " in text


# The self-test


def test_drawn_circle_is_red_and_moves_from_left_to_right():
    frames = draw_frames()

    is_red = (frames[..., 0] > 200) & (frames[..., 1] < 100)
    columns = [mask.any(0).nonzero()[0].mean() for mask in is_red]
    assert columns == sorted(set(columns))
    assert frames.shape == (16, 224, 224, 3)


def test_tiny_answers_rightly_on_the_device_of_the_settings():
    test = run_self_test(settings_of(device="cpu", dtype="float32"))

    assert (test.question, test.answer, test.is_right, test.reason) == (QUESTION, EXPECTED, True, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_self_test_that_cannot_run_tells_why():
    test = run_self_test(settings_of(device="cuda"))

    assert not test.is_right
    assert test.reason == "device is 'cuda' and torch finds no CUDA GPU: give --device cpu"


@pytest.mark.parametrize(("answer", "reason"), [("A blue square grows.", None), (None, "CUDA error")])
def test_failed_self_test_is_a_problem(answer, reason):
    settings = settings_of(model="tiny")
    facts = facts_of(settings, self_test=SelfTest(QUESTION, EXPECTED, answer, 1.0, reason))

    assert (answer or reason) in reason_against(find(facts, settings))


# The command


def test_report_is_readable_in_80_columns_and_ends_with_the_verdict(capsys):
    settings = settings_of()
    facts = facts_of(settings, card(8), ram_gib=4)
    findings = find(facts, settings)

    show(findings, last_line(facts, findings, settings), Console())

    *lines, verdict = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "Python and its packages"
    assert "  problem  7b             fits with --load-4bit, 5.9 GiB; without it: weights" in lines
    assert verdict.startswith("vllava ask with 7b would not work here: Room for a question about a clip, 7b: fits ")


@pytest.mark.parametrize("is_colored", [True, False])
def test_marks_have_colours_in_a_terminal_unless_it_wants_none(monkeypatch, is_colored):
    master, slave = pty.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    if not is_colored:
        monkeypatch.setenv("NO_COLOR", "1")
    settings = settings_of(model="tiny")
    with open(slave, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        show(find(facts_of(settings), settings)[:2], "vllava ask with tiny would work here", Console())
        monkeypatch.undo()

        shown = ""
        while "would work here" not in shown:
            shown += os.read(master, 1 << 16).decode()
    os.close(master)

    assert ("\x1b[32mok\x1b[0m" in shown) == is_colored
    assert ("\x1b" in shown) == is_colored


@pytest.mark.parametrize(
    ("made", "mark", "expected"),
    [
        ([], "ok", "nothing yet, in "),
        (["model-4bit-0123"], "note", ", 1 unfinished or damaged: see vllava cache"),
        (["a.unfinished", "b.unfinished"], "note", ", 2 unfinished or damaged: see vllava cache"),
    ],
)
def test_kept_weights_are_counted(tmp_path, made, mark, expected):
    for name in made:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(1000))
    settings = settings_of(model="tiny")
    kept = machine.look_at_kept_weights(tmp_path)

    [finding] = [
        each for each in find(replace(facts_of(settings), kept=kept), settings) if each.subject == "4-bit kept"
    ]

    assert (finding.mark.value, kept.number, kept.num_bytes) == (mark, len(made), 1000 * len(made))
    assert expected in finding.text


def test_json_adds_up_and_tells_every_finding():
    settings = settings_of()
    facts = facts_of(settings, card(24), self_test=SelfTest(QUESTION, EXPECTED, EXPECTED, 1.0))
    findings = find(facts, settings)

    report = json.loads(json.dumps(json_report(facts, findings, settings)))

    for model in report["models"]:
        need = model["need"]
        assert need["total"] == need["weights"] + need["cache"] + need["activations"]
    assert (report["works"], report["reason"], report["self_test"]["is_right"]) == (True, None, True)
    assert len(report["findings"]) == len(findings)


@pytest.fixture(scope="module")
def real():
    """Let doctor look at this machine, once."""
    command = [*VLLAVA, "-m", "tiny", "--device", "cpu", "--json"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VLLAVA_")}
    return subprocess.run(command, capture_output=True, check=False, timeout=300, env=environment)


def test_check_up_of_this_machine_is_true(real):
    assert (real.returncode, real.stderr) == (0, b"")
    report = json.loads(real.stdout)

    assert (report["vllava"], report["works"], report["reason"]) == (__version__, True, None)
    assert report["software"]["python"] == ".".join(map(str, sys.version_info[:3]))
    for name, version in report["software"]["versions"].items():
        installed = {distribution.metadata["Name"].replace("_", "-") for distribution in metadata.distributions()}
        is_there = name.replace("_", "-") in installed
        assert version == (metadata.version(name) if is_there else None)
    assert report["computer"]["num_processors"] <= len(os.sched_getaffinity(0))
    assert 0 < report["computer"]["available_bytes"] < report["computer"]["memory_bytes"]
    assert report["graphics"]["torch_cuda"] == torch.version.cuda
    assert len(report["graphics"]["gpus"]) == torch.cuda.device_count()
    assert (report["device"], report["dtype"], report["settings_problem"]) == ("cpu", "float32", None)


def test_check_up_of_this_machine_tells_disk_models_and_what_was_tried(real):
    report = json.loads(real.stdout)

    folder = Path(report["disk"]["folder"])
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    assert report["disk"]["total_bytes"] == shutil.disk_usage(there).total
    assert report["four_bit"] == {"is_usable": True, "reason": None}
    assert report["flash_attention"]["is_usable"] is False
    assert report["video"]["decoders"] == DECODERS
    tiny = report["models"][0]
    size = (BUNDLED_FOLDER / "tiny" / "model.safetensors").stat().st_size
    assert (tiny["name"], tiny["state"], tiny["fit"], tiny["need"]["weights"]) == ("tiny", "whole", "fits", 2 * size)
    assert report["self_test"]["answer"] == EXPECTED
    assert {finding["mark"] for finding in report["findings"]} <= {"ok", "note", "problem"}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-m", "tinny"], 5, "no model 'tinny'; did you mean 'tiny'? "),
        (["--load-4bit", "--load-8bit"], 2, "load_4bit and load_8bit exclude each other: "),
        (["clip.mp4"], 2, "Got unexpected extra argument"),
    ],
)
def test_mistake_is_one_line_on_stderr(arguments, status, message):
    done = subprocess.run([*VLLAVA, *arguments], capture_output=True, check=False, text=True, timeout=120)

    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(f"vllava: error: {message}")
    assert done.stderr.count("\n") == 1


def test_device_that_does_not_exist_anywhere_is_a_usage_error():
    with pytest.raises(UsageError, match="device is 'toaster': give auto, cpu, cuda, cuda:1 or mps"):
        examine(settings_of(device="toaster"), is_tested=False)


def test_settings_that_do_not_suit_the_machine_fail_with_the_reason_as_the_last_line(tmp_path, monkeypatch):
    write_package(tmp_path, monkeypatch, "bitsandbytes", "raise ImportError('broken')")  # fails sooner than it works
    command = [*VLLAVA, "-m", "tiny", "--device", "cpu", "--load-8bit", "--no-self-test"]

    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=300)

    assert (done.returncode, done.stderr) == (1, "")
    reason = "Machine, settings: 8-bit weights need a CUDA GPU, and the device is 'cpu': use --load-4bit"
    assert done.stdout.splitlines()[-1] == f"vllava ask with tiny would not work here: {reason}"
