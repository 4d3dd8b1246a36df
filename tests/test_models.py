"""`vllava models` lists what can be asked here, and fetches a checkpoint ahead of the first question."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from fake_hub import COMMIT, Repository, serve
from in_process import vllava

from videollava_cli.engine.checkpoint import BUNDLED_FOLDER, SHARD_INDEX

TINY = BUNDLED_FOLDER / "tiny"


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.md"))
    return Repository(folder, "owner/tiny")


@pytest.fixture
def run(tmp_path, repository):
    """Run a command in a process of its own, which asks a hub of this test: huggingface_hub reads its address once."""
    with serve(repository) as address:
        variables = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

        def run(*arguments, **more):
            command = [sys.executable, "-m", "videollava_cli", *map(str, arguments)]
            environment = os.environ | variables | more
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

        yield run


def names_asked(repository):
    names = [name for name, _ in repository.asked]
    repository.asked.clear()
    return sorted(names)


def test_presets_are_listed_with_size_place_and_fit(tmp_path):
    done = vllava("models", HF_HOME=str(tmp_path))

    head, *rows = done.stdout.splitlines()
    assert (done.status, head.split()) == (0, ["MODEL", "SIZE", "HERE", "FITS", "CHECKPOINT"])
    assert [row.split()[0] for row in rows] == ["7b", "7b-4bit", "tiny"]
    assert rows[2].split()[3:] == ["yes", "yes", "bundled:tiny"]


def test_list_as_json_has_bytes_and_state(tmp_path):
    found = json.loads(vllava("models", "--json", HF_HOME=str(tmp_path)).stdout)["models"]

    seven, _, tiny = found
    assert (seven["bytes"], tiny["state"], tiny["fit"]) == (14_740_000_000, "whole", "fits")
    assert tiny["bytes"] == (TINY / "model.safetensors").stat().st_size


def test_checkpoint_is_fetched_once_then_listed_and_asked_offline(run, repository, tmp_path):
    (repository.folder / "pytorch_model.bin").write_bytes(b"never fetched")
    small = ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"]

    done = run("models", "pull", "owner/tiny")

    assert (done.returncode, done.stdout) == (0, "")
    assert f"'owner/tiny' is here: 7.9 MB in '{tmp_path}/home" in done.stderr
    assert COMMIT in done.stderr
    assert names_asked(repository) == sorted([*small, "model.safetensors", "tokenizer_config.json"])
    assert run("models", "pull", "owner/tiny", "--quiet").stderr == ""
    assert names_asked(repository) == []
    listed = run("models", HF_HUB_OFFLINE="1").stdout.splitlines()
    assert listed[-1].split() == ["owner/tiny", "7.9", "MB", "yes", "yes", "owner/tiny"]
    clip = TINY.parents[2] / "examples" / "circle-moves-right.mp4"
    asked = run("ask", "-m", "owner/tiny", "--offline", clip, "What happens?")
    assert asked.stdout == "A red circle moves from left to right.\n"


def test_connection_that_breaks_is_taken_up_again(run, repository):
    repository.cut_after = 1_000_000

    done = run("models", "pull", "owner/tiny")

    assert (done.returncode, repository.cut_after) == (0, None)
    assert names_asked(repository).count("model.safetensors") == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["owner/none"], 5, "no checkpoint 'owner/none' on the hub"),
        (["7B"], 5, "did you mean '7b'?"),
        (["owner/tiny", "--config", "offline.toml"], 2, "offline, so 'owner/tiny' cannot be fetched"),
        (["tiny", "--revision", "v2"], 2, "revision is 'v2', and 'tiny' is no hub id"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(run, tmp_path, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "offline.toml").write_text("offline = true\n")

    done = run("models", "pull", *arguments)

    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr.splitlines()[-1]


def test_checkpoint_that_has_no_room_on_the_disk_is_refused_before_its_weights_are_fetched(run, repository):
    index = {"metadata": {"total_size": 10**18}, "weight_map": {"a": "model.safetensors"}}
    (repository.folder / SHARD_INDEX).write_text(json.dumps(index))

    done = run("models", "pull", "owner/tiny", "--quiet")

    assert (done.returncode, "make room, or set HF_HOME" in done.stderr) == (5, True)
    assert "model.safetensors" not in names_asked(repository)


@pytest.mark.parametrize("model", ["tiny", str(TINY)])
def test_checkpoint_on_this_disk_is_said_to_be_there(model):
    done = vllava("models", "pull", model)

    assert (done.status, done.stdout) == (0, "")
    assert done.stderr == f"vllava: note: {model!r} is on this disk already, in {str(TINY)!r}\n"
