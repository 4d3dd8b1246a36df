"""Quantized weights that are kept: the same tokens, sound or made again, and what `vllava cache` does with them."""

import json
import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from in_process import vllava

from videollava_cli.console import Console
from videollava_cli.engine.quantized_cache import QuantizedCache, cache_folder, entries, find_damage
from videollava_cli.engine.startup import load, start_engine
from videollava_cli.media import MediaKind, Medium
from videollava_cli.settings import xdg_folder

PICTURE = Medium("noise", MediaKind.IMAGE, np.random.default_rng(0).integers(0, 256, (1, 28, 28, 3), np.uint8))
HEAVY = ("torch", "transformers", "numpy", "safetensors", "huggingface_hub")


@pytest.fixture(scope="session")
def made(mini, tmp_path_factory):
    """Quantize the random weights once; return the folder of the cache's home and what the engine said."""
    home = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        return home, answer(quantized(mini))


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    """Work on a copy of the cache."""
    shutil.copytree(made[0], tmp_path / "home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def quantized(mini, **options):
    return load(str(mini.checkpoint.folder), device="cpu", dtype="float32", load_4bit=True, **options)


def answer(engine):
    return "".join(chunk.text for chunk in engine.ask([PICTURE], "What moves?", max_new_tokens=32))


def entry_in(home):
    (entry,) = entries(home / "vllava" / "quantized")
    return entry


def weights_of(entry):
    return entry.folder / "model.safetensors"


def test_weights_from_the_cache_are_those_that_quantizing_gives(mini, home, made):
    kept, anew = quantized(mini), quantized(mini, cache=False)

    assert answer(kept) == answer(anew) == made[1]
    # Last, since bitsandbytes unpacks the weights for it, but not their scales.
    kept_state, anew_state = kept.model.state_dict(), anew.model.state_dict()
    assert kept_state.keys() == anew_state.keys()
    assert all(torch.equal(kept_state[name], anew_state[name]) for name in anew_state)


def test_entry_is_used_and_not_written_again(mini, home):
    before = weights_of(entry_in(home)).stat().st_ino

    quantized(mini)

    assert weights_of(entry_in(home)).stat().st_ino == before


def test_no_cache_keeps_nothing(mini, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    quantized(mini, cache=False)

    assert list(tmp_path.iterdir()) == []


def test_other_number_format_and_changed_weights_have_entries_of_their_own(mini, home, tmp_path):
    copy = shutil.copytree(mini.checkpoint.folder, tmp_path / "copy")
    for dtype in ("float32", "bfloat16"):
        load(str(copy), device="cpu", dtype=dtype, load_4bit=True)
    os.utime(copy / "model.safetensors", (1, 1))
    load(str(copy), device="cpu", dtype="float32", load_4bit=True)

    assert len(entries(home / "vllava" / "quantized")) == 4


def flip_a_byte(path, at=0.5):
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * at))
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def flip_weights(folder):
    flip_a_byte(folder / "model.safetensors")


def start_quantized(mini):
    """Start an engine with 4-bit weights as the commands do."""
    engine, _ = start_engine(replace(mini.settings, load_4bit=True), mini.checkpoint, Console())
    return engine


DAMAGE_AT_START = {
    "weights cut short": (
        lambda folder: os.truncate(folder / "model.safetensors", 1000),
        "model.safetensors has 1,000 bytes in place of ",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "a damaged header": (lambda folder: flip_a_byte(folder / "model.safetensors", at=0), "cannot load the weights of "),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "a changed config": (lambda folder: flip_a_byte(folder / "config.json"), "config.json has changed"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing or makes no sense"),
    "garbage": (lambda folder: (folder / "manifest.json").write_text("[1]"), "manifest.json is missing or makes no"),
}
DAMAGE = {**DAMAGE_AT_START, "a flipped byte": (flip_weights, "model.safetensors has changed")}


@pytest.mark.parametrize(("damaged", "reason"), DAMAGE_AT_START.values(), ids=DAMAGE_AT_START)
def test_entry_of_wrong_sizes_or_headers_is_noticed_at_start_and_made_again(mini, home, made, capsys, damaged, reason):
    damaged(entry_in(home).folder)

    engine = start_quantized(mini)

    noticed, kept = capsys.readouterr().err.splitlines()
    assert f"are damaged ({reason}" in noticed
    assert kept.startswith("vllava: note: quantized; kept for next time in ")
    assert vllava("cache", "verify").stdout == f"{entry_in(home).name}: ok\n"
    assert answer(engine) == made[1]


def test_weights_are_not_read_at_start_to_check_them(mini, home, capsys):
    flip_weights(entry_in(home).folder)

    start_quantized(mini)

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damaged", [damaged for damaged, _ in DAMAGE.values()], ids=DAMAGE)
def test_verify_names_a_damaged_entry_and_repair_removes_it_to_be_made_again(mini, home, damaged, capsys):
    entry = entry_in(home)
    damaged(entry.folder)

    verified = vllava("cache", "verify")
    repaired = vllava("cache", "verify", "--repair")

    assert (verified.status, repaired.status) == (1, 0)
    assert verified.stdout.startswith(f"{entry.name}: damaged: ")
    assert verified.stderr.startswith(f"vllava: error: damaged: {entry.name!r} (")
    assert verified.stderr.endswith("): vllava cache verify --repair removes them\n")
    assert repaired.stderr.startswith("vllava: note: removed 1 entry, ")
    assert repaired.stderr.endswith(", to be made again when needed\n")
    assert not entry.folder.exists()
    start_quantized(mini)
    assert "quantized; kept for next time in " in capsys.readouterr().err
    assert vllava("cache", "verify").status == 0


def test_verify_says_which_file_is_damaged_and_how(home):
    entry = entry_in(home)
    flip_weights(entry.folder)

    assert vllava("cache", "verify").stdout == f"{entry.name}: damaged: model.safetensors has changed\n"


def test_verify_reads_the_entries_that_are_named_only(mini, home):
    entry = entry_in(home)
    other = shutil.copytree(entry.folder, entry.folder.with_name("other"))
    flip_weights(other)

    assert vllava("cache", "verify", entry.name).stdout == f"{entry.name}: ok\n"
    assert vllava("cache", "verify", mini.checkpoint.name).status == 1
    assert vllava("cache", "verify", "othr").status == 2
    assert vllava("cache", "verify", "--repair", "--quiet").stderr == ""
    assert (entry.folder.exists(), other.exists()) == (True, False)


def test_verify_leaves_unfinished_entries_alone(home):
    entry = entry_in(home)
    unfinished = entry.folder.with_name("half.unfinished")
    unfinished.mkdir()

    done = vllava("cache", "verify", "--repair")

    assert (done.status, done.stderr) == (0, "")
    assert set(done.stdout.splitlines()) == {f"{entry.name}: ok", "half.unfinished: unfinished"}
    assert unfinished.exists()


def test_verify_prints_json_as_the_list_does_with_the_problem(home):
    entry = entry_in(home)
    flip_weights(entry.folder)
    listed = json.loads(vllava("cache", "--json").stdout)

    done = vllava("cache", "verify", "--json")

    (found,) = json.loads(done.stdout)["entries"]
    problem = {"state": "damaged", "problem": "model.safetensors has changed"}
    assert (done.status, found) == (1, {**listed["entries"][0], **problem})
    assert json.loads(done.stdout)["bytes"] == listed["bytes"]


def test_manifest_has_the_sum_of_each_block_as_version_0_1_0_wrote_it(tmp_path):
    (tmp_path / "entry").mkdir()
    content = bytes(range(256)) * (1 << 16) + b"end"
    (tmp_path / "entry" / "model.safetensors").write_bytes(content)
    sums = [zlib.crc32(content[: 16 << 20]), zlib.crc32(b"end")]
    files = {"model.safetensors": {"bytes": len(content), "sums": sums}}
    manifest = {"format": 1, "model": "m", "what": "4-bit float32", "identity": {}, "files": files}
    (tmp_path / "entry" / "manifest.json").write_text(json.dumps(manifest))

    assert find_damage(tmp_path / "entry", reads_weights=True) is None


def test_disk_that_takes_nothing_is_a_notice_and_the_engine_answers(mini, tmp_path, monkeypatch, made, capsys):
    (tmp_path / "vllava").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    engine = start_quantized(mini)

    notice = f"the quantized weights cannot be kept in {str(cache_folder())!r}: Not a directory"
    assert capsys.readouterr().err == f"vllava: note: {notice}\n"
    assert answer(engine) == made[1]


def test_writing_that_fails_leaves_nothing_behind(tmp_path):
    notices = []

    def write(draft):
        (draft / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    QuantizedCache(tmp_path, notices.append).keep(tmp_path / "entry", {"model": "m", "what": "w"}, write)

    assert list(tmp_path.iterdir()) == []
    assert notices == [f"the quantized weights cannot be kept in {str(tmp_path)!r}: No space left on device"]


def test_first_of_two_processes_that_write_an_entry_wins(tmp_path):
    cache = QuantizedCache(tmp_path, lambda _: None)

    def write(text):
        return lambda draft: (draft / "weights").write_text(text)

    def second_wins_nothing(draft):
        cache.keep(tmp_path / "entry", {"model": "m", "what": "w"}, write("first"))
        write("second")(draft)

    cache.keep(tmp_path / "entry", {"model": "m", "what": "w"}, second_wins_nothing)

    assert (tmp_path / "entry" / "weights").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_bundled_model_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    load("tiny", device="cpu", load_4bit=True)

    assert list(tmp_path.iterdir()) == []


def test_empty_cache_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    done = vllava("cache")

    assert (done.status, done.stderr) == (0, "")
    assert done.stdout == f"nothing is kept in {str(tmp_path / 'vllava' / 'quantized')!r}\n"


def test_list_names_model_size_and_folder(mini, home):
    entry = entry_in(home)

    lines = vllava("cache").stdout.splitlines()
    listed = json.loads(vllava("cache", "--json").stdout)

    assert lines[0].split() == ["MODEL", "WHAT", "SIZE", "LAST", "USED", "FOLDER"]
    assert lines[1].startswith(f"{mini.checkpoint.name}  4-bit float32  ")
    assert lines[1].endswith(str(entry.folder))
    assert listed["bytes"] == sum(path.stat().st_size for path in entry.folder.iterdir())
    assert [(each["name"], each["state"]) for each in listed["entries"]] == [(entry.name, "kept")]


def test_unfinished_and_damaged_entries_are_marked_and_cleared(home):
    entry = entry_in(home)
    os.truncate(weights_of(entry), 1000)
    entry.folder.with_name("half.unfinished").mkdir()

    states = {each["name"]: each["state"] for each in json.loads(vllava("cache", "--json").stdout)["entries"]}
    cleared = vllava("cache", "clear", "--yes")

    assert states == {entry.name: "damaged", "half.unfinished": "unfinished"}
    assert (cleared.status, cleared.stdout) == (0, "")
    assert cleared.stderr.startswith("vllava: note: removed 2 entries, ")
    assert entries(entry.folder.parent) == []


def test_clear_takes_a_name_or_a_model_and_leaves_the_rest(mini, home):
    entry = entry_in(home)
    other = shutil.copytree(entry.folder, entry.folder.with_name("other"))

    assert vllava("cache", "clear", "other", "--yes", "--quiet").status == 0
    assert not other.exists()
    assert entry.folder.exists()
    assert vllava("cache", "clear", mini.checkpoint.name, "--yes").status == 0
    assert not entry.folder.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clear"], "there is no terminal to ask at: add --yes"),
        (["clear", "othr", "--yes"], "nothing that is kept is called 'othr': see vllava cache"),
    ],
)
def test_clear_that_is_not_meant_is_refused(home, arguments, message):
    done = vllava("cache", *arguments)

    assert (done.status, done.stdout, done.stderr) == (2, "", f"vllava: error: {message}\n")
    assert len(entries(home / "vllava" / "quantized")) == 1


def test_no_heavy_library_is_imported_to_list(home):
    run = [sys.executable, "-X", "importtime", "-m", "videollava_cli", "cache"]
    done = subprocess.run(run, capture_output=True, check=True, text=True)

    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "videollava_cli" in names
    assert not names & set(HEAVY)


def test_quantized_weights_are_kept_in_the_cache_folder_of_the_user():
    assert cache_folder() == xdg_folder("CACHE") / "quantized"
