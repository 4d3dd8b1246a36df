"""A model that cannot fit a computer's memory is refused at once, with what would fit."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from in_process import vllava

from videollava_cli import machine
from videollava_cli.engine.checkpoint import BUNDLED_FOLDER, SHARD_INDEX, check_memory, find_checkpoint
from videollava_cli.errors import MemoryFullError
from videollava_cli.settings import presets_folder, resolve

CLIP = Path(__file__).resolve().parents[1] / "examples" / "circle-moves-right.mp4"
IMAGE = CLIP.with_name("triangle.jpg")
GIB = 1 << 30
# The sizes of the 7B: with tiny's 136 tokens a clip 28.3 and 14.2 GiB in float32 and bfloat16, with 4 bits 4.7 and 4.3.
TEXT = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
BYTES = 14_740_000_000


@pytest.fixture
def large(tmp_path):
    """Make a checkpoint of the 7B's sizes, by its JSON files: the weights themselves are not there."""
    folder = tmp_path / "large"
    shutil.copytree(BUNDLED_FOLDER / "tiny", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= TEXT | {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    index = {"metadata": {"total_size": BYTES}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / SHARD_INDEX).write_text(json.dumps(index))
    return folder


@pytest.fixture
def limit(tmp_path, monkeypatch):
    """Give this process a control group with a limit of memory, on a large machine that does nothing else."""

    def plant(gibibytes):
        group = tmp_path / "sys/fs/cgroup/job"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{int(gibibytes * GIB)}\n")
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text("0::/job\n")
        monkeypatch.setattr(machine, "ROOT", tmp_path)
        system = SimpleNamespace(total=128 * GIB, available=128 * GIB)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: system)

    return plant


def limited(*arguments):
    """Run Python in 8 GiB of address space."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 * GIB, 8 * GIB)),
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(folder, **options):
    settings = resolve({"model": str(folder), "device": "cpu", **options}, presets=presets_folder())
    with pytest.raises(MemoryFullError) as error:
        check_memory(find_checkpoint(settings), settings)
    return str(error.value)


@pytest.mark.parametrize(
    ("gibibytes", "options", "need", "advice"),
    [
        (17, {"dtype": "float32"}, "28.3", "--dtype bfloat16 takes 14.2 GiB; "),
        (8, {"dtype": "float32"}, "28.3", "--load-4bit takes 4.7 GiB; "),
        (8, {}, "14.2", "--load-4bit takes 4.7 GiB; "),
        (3, {}, "14.2", "try -m tiny, or a machine with more; "),
        (3, {"load_4bit": True}, "4.3", "try -m tiny, or a machine with more; "),
    ],
)
def test_refusal_names_need_room_and_the_option_that_fits(large, limit, gibibytes, options, need, advice):
    limit(gibibytes)

    text = refusal(large, **options)

    assert text.startswith(f"{str(large)!r} needs {need} GiB")
    assert f"GiB of memory, and {gibibytes}.0 GiB are free: {advice}" in text
    assert text.endswith("; --force tries it all the same")


@pytest.mark.parametrize(
    ("gibibytes", "options"),
    [(17, {}), (8, {"load_4bit": True}), (8, {"force": True}), (8, {"device": "cuda"})],
)
def test_what_fits_or_is_forced_or_runs_on_a_card_is_let_pass(large, limit, gibibytes, options):
    limit(gibibytes)
    settings = resolve({"model": str(large), "device": "cpu", **options}, presets=presets_folder())

    assert check_memory(find_checkpoint(settings), settings) is None


@pytest.mark.parametrize("command", [["ask", CLIP, "Why?"], ["batch", CLIP, "-q", "Why?"], ["chat", CLIP]])
def test_every_command_refuses_before_it_loads(large, limit, command):
    limit(8)

    done = vllava(*command, "-m", large, "--device", "cpu")

    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(f"vllava: error: {str(large)!r} needs 14.2 GiB")


def test_limit_of_address_space_counts_and_torch_is_not_imported(large):
    arguments = ("ask", "-m", large, "--device", "cpu", "--dtype", "bfloat16", IMAGE, "Why?")

    done = limited("-X", "importtime", "-m", "videollava_cli", *arguments)

    assert done.returncode == 1
    (message,) = (line for line in done.stderr.splitlines() if "needs 14.2 GiB" in line)
    assert ": --load-4bit takes 4.3 GiB; " in message
    assert not any(line.rpartition("|")[2].strip() == "torch" for line in done.stderr.splitlines())


def test_weights_that_do_not_fit_after_all_are_a_matter_of_memory_and_not_of_the_checkpoint(large):
    tensor = {"dtype": "F16", "shape": [1 << 30, 10], "data_offsets": [0, 20 * GIB]}
    header = json.dumps({"lm_head.weight": tensor}).encode()
    with (large / "model-00001-of-00001.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 20 * GIB)  # a hole: it takes no room on the disk

    done = limited("-m", "videollava_cli", "ask", "-m", large, "--device", "cpu", "--force", IMAGE, "Why?")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"vllava: error: {str(large)!r} does not fit into the memory of cpu: try --load-4bit\n"


@pytest.mark.parametrize("option", ["--from-file", "--questions", "--config"])
def test_file_that_is_larger_than_the_memory_ends_in_one_line(tmp_path, option):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(100 * GIB)

    done = limited("-m", "videollava_cli", "batch", "-m", "tiny", "-q", "Why?", option, tmp_path / "huge", IMAGE)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("vllava: error: the memory is full: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["nvidiactl", "kfd", "dxg"])
def test_computer_with_a_card_is_not_judged_by_its_memory(large, limit, tmp_path, name):
    limit(8)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / name).touch()
    settings = resolve({"model": str(large)}, presets=presets_folder())

    assert check_memory(find_checkpoint(settings), settings) is None
