"""Quantized weights that are kept: the same tokens, sound or made again, and what `vllava cache` does with them."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from videollava_cli.engine.quantized import QuantizedStore, damage, entries
from videollava_cli.engine.startup import cache_folder, load
from videollava_cli.media import MediaKind, Medium
from videollava_cli.settings import xdg_folder

PICTURE = Medium("noise", MediaKind.IMAGE, np.random.default_rng(0).integers(0, 256, (1, 28, 28, 3), np.uint8))
VLLAVA = [sys.executable, "-m", "videollava_cli"]
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
    return load(str(mini.checkpoint.folder), device="cpu", load_4bit=True, **options)


def answer(engine):
    return "".join(chunk.text for chunk in engine.ask([PICTURE], "What moves?", max_new_tokens=32))


def entry_in(home):
    (entry,) = entries(home / "vllava" / "quantized")
    return entry


def weights_of(entry):
    return entry.folder / "model.safetensors"


def vllava(*arguments):
    return subprocess.run(
        [*VLLAVA, *arguments], capture_output=True, check=False, text=True, stdin=subprocess.DEVNULL, timeout=120
    )


def test_weights_from_the_cache_are_those_that_quantizing_gives(mini, home, made):
    kept, anew = quantized(mini), quantized(mini, cache=False)

    kept_state, anew_state = kept.model.state_dict(), anew.model.state_dict()
    assert kept_state.keys() == anew_state.keys()
    assert all(torch.equal(kept_state[name], anew_state[name]) for name in anew_state)
    assert answer(kept) == answer(anew) == made[1]


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
    for options in ({}, {"dtype": "bfloat16"}):
        load(str(copy), device="cpu", load_4bit=True, **options)
    os.utime(copy / "model.safetensors", (1, 1))
    load(str(copy), device="cpu", load_4bit=True)

    assert len(entries(home / "vllava" / "quantized")) == 4


def flip_a_byte(folder):
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def cut_short(folder):
    os.truncate(folder / "model.safetensors", 1000)


DAMAGE = {
    "a flipped byte": (flip_a_byte, "model.safetensors has changed"),
    "cut short": (cut_short, "model.safetensors has 1,000 bytes in place of "),
    "a missing file": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing or makes no sense"),
    "garbage": (lambda folder: (folder / "manifest.json").write_text("[1]"), "manifest.json is missing or makes no"),
}


@pytest.mark.parametrize(("damaged", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_entry_is_told_and_made_again(mini, home, made, damaged, reason):
    entry = entry_in(home)
    damaged(entry.folder)
    said = []

    from videollava_cli.engine.startup import load_engine

    engine = load_engine(quantized_settings(mini), mini.checkpoint, tell=said.append)

    assert reason in said[0]
    assert said[1].startswith("quantized; kept for next time in ")
    assert damage(entry_in(home).folder) is None
    assert answer(engine) == made[1]


def quantized_settings(mini):
    from dataclasses import replace

    return replace(mini.settings, load_4bit=True)


def test_disk_that_takes_nothing_is_told_and_the_engine_answers(mini, tmp_path, monkeypatch, made):
    from videollava_cli.engine.startup import load_engine

    (tmp_path / "vllava").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = []

    engine = load_engine(quantized_settings(mini), mini.checkpoint, tell=said.append)

    assert said == [f"the quantized weights cannot be kept in {str(cache_folder())!r}: Not a directory"]
    assert answer(engine) == made[1]


def test_writing_that_fails_leaves_nothing_behind(tmp_path):
    said = []

    def write(draft):
        (draft / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    QuantizedStore(tmp_path, said.append).keep(tmp_path / "entry", {"model": "m", "what": "w"}, write)

    assert list(tmp_path.iterdir()) == []
    assert said == [f"the quantized weights cannot be kept in {str(tmp_path)!r}: No space left on device"]


def test_first_of_two_processes_that_write_an_entry_wins(tmp_path):
    store = QuantizedStore(tmp_path, lambda _: None)

    def write(text):
        return lambda draft: (draft / "weights").write_text(text)

    def second_wins_nothing(draft):
        store.keep(tmp_path / "entry", {"model": "m", "what": "w"}, write("first"))
        write("second")(draft)

    store.keep(tmp_path / "entry", {"model": "m", "what": "w"}, second_wins_nothing)

    assert (tmp_path / "entry" / "weights").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_bundled_model_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    load("tiny", device="cpu", load_4bit=True)

    assert list(tmp_path.iterdir()) == []


def test_empty_cache_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    done = vllava("cache")

    assert (done.returncode, done.stderr) == (0, "")
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
    cut_short(entry.folder)
    entry.folder.with_name("half.unfinished").mkdir()

    states = {each["name"]: each["state"] for each in json.loads(vllava("cache", "--json").stdout)["entries"]}
    cleared = vllava("cache", "clear", "--yes")

    assert states == {entry.name: "damaged", "half.unfinished": "unfinished"}
    assert (cleared.returncode, cleared.stdout) == (0, "")
    assert cleared.stderr.startswith("vllava: note: removed 2 entries, ")
    assert entries(entry.folder.parent) == []


def test_clear_takes_a_name_or_a_model_and_leaves_the_rest(mini, home):
    entry = entry_in(home)
    other = shutil.copytree(entry.folder, entry.folder.with_name("other"))

    assert vllava("cache", "clear", "other", "--yes", "--quiet").returncode == 0
    assert not other.exists()
    assert entry.folder.exists()
    assert vllava("cache", "clear", mini.checkpoint.name, "--yes").returncode == 0
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

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"vllava: error: {message}\n")
    assert len(entries(home / "vllava" / "quantized")) == 1


def test_no_heavy_library_is_imported_to_list(home):
    run = [sys.executable, "-X", "importtime", "-m", "videollava_cli", "cache"]
    done = subprocess.run(run, capture_output=True, check=True, text=True)

    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "videollava_cli" in names
    assert not names & set(HEAVY)


def test_quantized_weights_are_kept_in_the_cache_folder_of_the_user():
    assert cache_folder() == xdg_folder("CACHE") / "quantized"
