"""`vllava batch --ray` on two Ray nodes of this machine, and what can be told of it without any."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from unittest import mock

import psutil
import pytest
from in_process import vllava
from slow_server import slow_server

from videollava_cli.batch.lines import Outcome
from videollava_cli.batch.pipeline import Job
from videollava_cli.batch.ray import EngineActor, engines, media_a_block, plan_of, read_media
from videollava_cli.batch.work import Item
from videollava_cli.commands.batch import with_address
from videollava_cli.engine.checkpoint import find_checkpoint
from videollava_cli.errors import CheckpointError, GenerationError, UsageError
from videollava_cli.settings import Settings

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
QUESTION = "What happens?"
ANSWERS = {
    "circle-moves-right.mp4": "A red circle moves from left to right.",
    "ring-moves-up.mp4": "A green ring moves from bottom to top.",
    "triangle-disappears.mp4": "A pink triangle disappears.",
}
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "memory": 4 << 30, "include_dashboard": False}
TINY = Settings(model="tiny", checkpoint="bundled:tiny", device="cpu")
GIB = 1 << 30
DEADLY = "clips/002-deadly.jpg"  # the third of its folder
DEADLY_FILES = """
import os, signal, sys

def kill_who_opens_it(event, arguments):
    if event == "open" and "deadly" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill_who_opens_it)
"""


@pytest.fixture(scope="session")
def node_environment(tmp_path_factory):
    """Return variables of Ray nodes that report to nobody, and whose processes die when they open a deadly file."""
    hook = tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(DEADLY_FILES)
    python_path = os.pathsep.join([str(hook), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": python_path}


@pytest.fixture(scope="session")
def two_nodes(node_environment):
    """Start two Ray nodes with a CPU each, which notice soon when one is gone."""
    from ray.cluster_utils import Cluster

    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    with mock.patch.dict(os.environ, node_environment):
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "_system_config": soon})
        cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copies(folder, number):
    """Fill a folder with so many copies of clips; return their right answers by path."""
    folder.mkdir()
    right = {}
    for index in range(number):
        name, answer = list(ANSWERS.items())[index % len(ANSWERS)]
        shutil.copy(EXAMPLES / name, folder / f"{index:03}.mp4")
        right[f"{folder.name}/{index:03}.mp4"] = answer
    return right


def batch(*arguments):
    """Run the command in this process; return its exit status, its stdout and its stderr."""
    done = vllava("batch", "-m", "tiny", "--device", "cpu", "-q", QUESTION, *arguments)
    return done.status, done.stdout, done.stderr


@pytest.fixture
def start(folder):
    """Start the command as a process of its own; none outlives its test."""
    started = []

    def run(*arguments):
        command = [sys.executable, "-m", "videollava_cli", "batch", "-m", "tiny", "--device", "cpu", "-q", QUESTION]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([*command, *map(str, arguments)], **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def finished(process, seconds=150):
    written, said = process.communicate(timeout=seconds)
    return process.returncode, written, said


def lines_of(text):
    """Return lines without what differs from run to run."""
    return [{key: value for key, value in json.loads(line).items() if key != "timings"} for line in text.splitlines()]


def wait_for_lines(path, number, process):
    while not path.exists() or path.read_bytes().count(b"\n") < number:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


@pytest.fixture(scope="module")
def both_runs(two_nodes, tmp_path_factory):
    """Ask the same without Ray and of two nodes, whose readers one more file kills; return what `batch` returns."""
    folder = tmp_path_factory.mktemp("both")
    copies(folder / "clips", 5)
    (folder / "clips" / "broken.mp4").write_bytes(b"no video " * 100)
    (folder / "clips" / "notes.txt").write_text("Dear diary,\n")
    shutil.copy(EXAMPLES / "triangle.jpg", folder / "clips")
    asked = ("clips", "nowhere.mp4", "-q", "What color is it?")
    with chdir(folder):
        expected = batch(*asked)
        shutil.copy(EXAMPLES / "triangle.jpg", DEADLY)
        return expected, batch(*asked, "--ray", two_nodes.address, "--verbose")


def test_two_nodes_write_the_lines_that_one_process_writes(both_runs):
    (status, expected, _), (found_status, found, said) = both_runs

    assert [line for line in lines_of(found) if line["id"] != DEADLY] == lines_of(expected)
    assert (status, found_status, len(lines_of(expected))) == (4, 4, 16)
    assert said.startswith("vllava: Ray has 2 nodes; engines on 2 CPUs\n")
    assert "12 answered, 6 failed, 1 file without video or image passed over; " in said
    assert [line for line in said.splitlines() if not line.startswith("vllava: ")] == []


def test_clip_that_kills_its_readers_is_given_up_in_its_place(both_runs):
    _, (_, found, said) = both_runs

    assert [number for number, line in enumerate(lines_of(found)) if line["id"] == DEADLY] == [4, 5]
    assert {line["error"]["type"] for line in lines_of(found)[4:6]} == {"GenerationError"}
    assert "failed: Ray gave up on it, after the processes that read or answered it died: --redo-failed" in said


def engine_of(node):
    """Return the process of an engine on a node, if there is one."""
    raylet = next(
        started.process for kind, of_kind in node.all_processes.items() for started in of_kind if kind == "raylet"
    )
    workers = psutil.Process(raylet.pid).children(recursive=True)
    return next((worker for worker in workers if "MapWorker" in " ".join(worker.cmdline())), None)


def test_every_item_is_answered_exactly_once_when_a_node_is_killed_in_the_middle(
    two_nodes, node_environment, start, folder
):
    right = copies(folder / "clips", 20)
    output = folder / "out.jsonl"
    node = next(iter(two_nodes.worker_nodes))
    with slow_server(EXAMPLES / "ring-moves-up.mp4") as (url, release):
        slow = [f"{url}?{number}" for number in range(10)]
        right |= dict.fromkeys(slow, ANSWERS["ring-moves-up.mp4"]) | copies(folder / "more", 10)
        options = ("-o", output, "--batch-size", 1, "--unordered")
        process = start("clips", *slow, "more", "--ray", two_nodes.address, *options)
        wait_for_lines(output, 8, process)
        while not engine_of(node):
            assert process.poll() is None, "one node did all the work"
            time.sleep(0.02)

        two_nodes.remove_node(node, allow_graceful=False)
        num_lines_then = output.read_bytes().count(b"\n")
        release.set()
        status, written, said = finished(process)
    with mock.patch.dict(os.environ, node_environment):
        two_nodes.add_node(**NODE)

    counts = Counter(json.loads(line)["id"] for line in output.read_text().splitlines())
    answers = {line["id"]: line["answer"] for line in lines_of(output.read_text())}
    assert num_lines_then < 40
    assert counts == dict.fromkeys(right, 1)
    assert answers == right
    assert (status, written) == (0, ""), said


def test_file_begun_without_ray_is_gone_on_with_by_a_ray_of_our_own(start, folder):
    right = copies(folder / "clips", 4)
    output = folder / "out.jsonl"
    batch("clips/000.mp4", "clips/001.mp4", "-o", output)
    begun = output.read_text()
    output.write_text(begun + '{"id": "clips/00')

    status, _, said = finished(start("clips", "-o", output, "--ray"))

    assert output.read_text().startswith(begun)
    assert [(line["id"], line["answer"]) for line in lines_of(output.read_text())] == list(right.items())
    assert (status, [line for line in said.splitlines() if not line.startswith("vllava: ")]) == (0, [])
    assert "2 answered, 2 there before; " in said


@pytest.mark.parametrize(("sent", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_the_nodes_and_leaves_no_copy(two_nodes, start, folder, monkeypatch, sent, expected):
    copies(folder / "clips", 59)
    output, scratch = folder / "out.jsonl", folder / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    with slow_server(EXAMPLES / "circle-moves-right.mp4") as (url, _):
        process = start("clips", url, "--ray", two_nodes.address, "-o", output, "--batch-size", 1, "--unordered")
        wait_for_lines(output, 2, process)

        process.send_signal(sent)
        status, _, said = finished(process, seconds=30)

    num_lines = len(lines_of(output.read_text()))
    assert (status, list(scratch.glob("vllava-*")), "received" in said) == (expected, [], False)
    assert f"interrupted at {num_lines} of 60; run the same command to go on: " in said
    assert "Traceback" not in said


def test_missing_package_is_told_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    assert batch("clips", "--ray") == (
        2,
        "",
        "vllava: error: --ray needs the package ray: pip install '.[ray]' in the folder of vllava's sources\n",
    )


def test_what_is_no_address_is_refused():
    status, _, said = batch("clips", "--ray=ray://head:10001")

    assert (status, said.count("\n")) == (2, 1)
    assert "--ray is 'ray://head:10001': give HOST:PORT of a `ray start --head`, auto, or nothing at all" in said


def test_address_where_nobody_listens_is_told_at_once(folder):
    copies(folder / "clips", 1)

    status, _, said = batch("clips", "--ray", "127.0.0.1:1")

    assert status == 2
    assert said.splitlines()[-1].startswith("vllava: error: nobody listens at '127.0.0.1:1': give the address that ")


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        (["--ray"], ["--ray=local"]),
        (["--ray", "clips/"], ["--ray=local", "clips/"]),
        (["--ray", "-o", "x"], ["--ray=local", "-o", "x"]),
        (["--ray", "head:6379", "clips"], ["--ray", "head:6379", "clips"]),
        (["--ray", "auto"], ["--ray", "auto"]),
        (["--ray=auto"], ["--ray=auto"]),
        (["--", "--ray"], ["--", "--ray"]),
    ],
)
def test_address_may_be_left_out(given, understood):
    assert with_address(given) == understood


def test_engines_are_one_a_gpu_or_one_a_cpu_as_far_as_the_memory_goes():
    checkpoint = find_checkpoint(TINY)
    nodes = [
        {"CPU": 8.0, "GPU": 2.0, "memory": 64.0 * GIB},
        {"CPU": 4.0, "memory": 2.0 * GIB},
        {"memory": 64.0 * GIB},
    ]

    assert engines(nodes, replace(TINY, device="auto"), checkpoint) == (2, {"num_gpus": 1})
    num_engines, resources = engines(nodes, TINY, checkpoint)
    assert (num_engines, list(resources)) == (9, ["memory"])
    with pytest.raises(GenerationError, match=r"no node of Ray has a CPU and 1\.0 GiB for 'tiny'"):
        engines([{"CPU": 8.0, "memory": GIB / 2}], TINY, checkpoint)
    with pytest.raises(UsageError, match="device is 'cuda' and the nodes of Ray have no GPU"):
        engines([{"CPU": 8.0, "memory": GIB}], replace(TINY, device="cuda"), checkpoint)
    with pytest.raises(UsageError, match="device is 'cuda:1', and Ray gives each engine its own"):
        engines(nodes, replace(TINY, device="cuda:1"), checkpoint)


def test_blocks_are_small_for_few_clips_and_not_too_many_for_a_million():
    assert [media_a_block(*numbers) for numbers in ((4, 2), (64, 2), (1_000_000, 256))] == [1, 8, 16]


@pytest.fixture
def plan():
    """Return the plan of a job with the bundled model."""
    where = {"output": None, "summary": None, "redo_failed": False, "is_fresh": False, "is_ordered": True}
    job = Job(items=(), common_questions=(), settings=TINY, batch_size=None, ray="local", **where)
    return plan_of(job, find_checkpoint(TINY), "cpu")


def test_file_that_a_node_does_not_see_is_an_error_item(plan):
    item = Item("clips/a.mp4", "clips/a.mp4", QUESTION, is_named=False, stamp=(10, 10))

    ((failed,),) = read_media(plan, [(item,)])

    assert failed.item == item
    assert str(failed.error).startswith("'clips/a.mp4' is not on the node ")


def test_node_with_another_version_is_refused(plan):
    (error,) = read_media(replace(plan, version="0.0.1"), [(Item("a.mp4", "a.mp4", QUESTION),)])

    assert "install the same on every node" in str(error)


def test_node_without_the_checkpoint_is_refused(plan):
    image = str(EXAMPLES / "triangle.jpg")
    (read,) = read_media(plan, [(Item(image, image, QUESTION),)])
    assert isinstance(read[0], Outcome)

    local = replace(plan, job=replace(plan.job, settings=replace(TINY, checkpoint="/nowhere/weights")))
    error = EngineActor(local).answer([read])

    assert isinstance(error, CheckpointError)
    assert str(error).startswith("there is no folder '/nowhere/weights' (on the node ")
